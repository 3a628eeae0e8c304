"""Why a search found nothing better, and what came closest."""

from __future__ import annotations

from collections.abc import Sequence

from strop.records import NearMiss, Trial
from strop.search.objective import cost, speed, sureness
from strop.search.prove import Proof
from strop.search.workspace import Workspace

_BETTER = {
    "energy": "took less energy",
    "cost": "was cheaper",
    "memory": "took less memory",
    "size": "was smaller",
}


def none_better(trials: Sequence[Trial], goal: str, *, finished: bool) -> str:
    """Why nothing but exact candidates was left to prove.

    Parameters
    ----------
    finished
        Whether the race tried all that was worth it, and was not ended by its share of the budget
        or an interruption.
    """
    others = [trial for trial in trials if not trial.equivalent]
    measured = sum(trial.status != "failed" for trial in others)
    if not measured and not finished:
        return "the search ended before any candidate outside exact arithmetic could be tried"
    if not measured:
        why = f": {others[0].recipe}: {others[0].reason}" if others else ""
        return f"no candidate outside exact arithmetic could be built{why}"
    better = _BETTER.get(goal, "was faster")
    tried = "" if finished else f"; there was time to try {measured}"
    return f"no candidate outside exact arithmetic {better} on the search examples{tried}"


def near_miss(
    workspace: Workspace,
    trials: Sequence[Trial],
    equal: Trial,
    proofs: Sequence[Proof],
    chosen: Proof | None,
) -> NearMiss | None:
    """The fastest candidate that could not be claimed, told from *search* alone.

    What *prove* said of it stays unpublished: it would make every later candidate adaptive.
    """
    goal = workspace.task.goal
    tried = {proof.trial.number: proof.claim is not None for proof in proofs}
    candidates = [
        trial
        for trial in trials
        if not trial.equivalent
        and trial.evidence.search_quality is not None
        and trial.status != "failed"
        and (speed(trial) is None or cost(trial, goal) < cost(equal, goal))
    ]
    if not candidates:
        return None
    best = max(candidates, key=lambda trial: sureness(trial, workspace.tolerance))
    found, ratio = best.evidence.search_quality, speed(best)
    assert found is not None
    equal_ratio = speed(equal)
    drop = found.drop.estimate
    if tried.get(best.number):
        reason = "proven, but not shown to be better than the equivalent when timed again"
        if chosen is not None and chosen.trial.number != best.number:
            reason = (
                f"proven, but #{chosen.trial.number} was taken for the best of the proven, and was "
                "not shown to be better than the equivalent when timed again"
            )
    elif best.number in tried:
        reason = "not proven on the proof set; more examples, or a wider tolerance, may"
    elif drop > workspace.tolerance:
        reason = f"loses {drop:.2%} on search; a tolerance above that would admit it"
    else:
        reason = "within the tolerance on search, but not tested: too few examples to prove it"
    return NearMiss(
        recipe=best.recipe,
        text=str(best.recipe),
        speedup=ratio / equal_ratio if ratio and equal_ratio else None,
        drop=drop,
        reason=reason,
    )
