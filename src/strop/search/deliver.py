"""The end of a search: prove, choose, time the chosen again, and never give back worse."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from strop.errors import StropError
from strop.measure import (
    Conditions,
    PairTiming,
    TimingFailed,
    idle_watts,
    kind_of,
    meter,
    pair,
    speedup,
)
from strop.records import (
    BatchLatency,
    Claim,
    Evidence,
    Interval,
    NearMiss,
    StageEntered,
    Trial,
    Warned,
)
from strop.search.builder import Built, build
from strop.search.evaluator import Evaluator
from strop.search.finals import Final, latency_curve, measure
from strop.search.ledger import Ledger
from strop.search.machines import saves_none
from strop.search.objective import SLOWEST, at_once, cost, speed, sureness
from strop.search.playoff import Contender, playoff
from strop.search.prove import Proof, equivalence, plan, prove_in_order
from strop.search.race import Race
from strop.search.spending import saved_against
from strop.search.typical import timing_inputs
from strop.search.workspace import Workspace, reason_of

_LAUNCHES, _QUADS = 10, 4
_LEAST_SECONDS, _LEAST_SHARE = 15.0, 0.05
# A duel between two of the proven only orders them; with less time than this it says nothing.
_DUEL_LAUNCHES, _DUEL_SHARE, _DUEL_LEAST = 5, 0.12, 4.0
_BETTER = {
    "energy": "took less energy",
    "cost": "was cheaper",
    "memory": "took less memory",
    "size": "was smaller",
}
_CURVE = (1, 2, 4, 8, 16, 32)


@dataclass
class Delivery:
    """What a search ends with.

    Attributes
    ----------
    timings
        Raw launches by pair name (``original/delivered`` …), as they were timed.
    """

    improved: bool
    reason: str
    claim: Claim | None
    original: Final
    equivalent: Final
    delivered: Final
    proofs: list[Proof]
    near_miss: NearMiss | None
    timings: dict[str, PairTiming] = field(default_factory=dict)
    curve: tuple[BatchLatency, ...] = ()


def deliver(
    workspace: Workspace,
    race: Race,
    evaluator: Evaluator,
    original: Built,
    ledger: Ledger,
    *,
    too_few: bool,
) -> Delivery:
    """Choose among what the race left, on evidence of its own.

    Parameters
    ----------
    too_few
        The proof set can prove nothing: an equivalent engine that is faster is then the best
        possible answer, and counts as one.
    """
    goal = workspace.task.goal
    first = race.trials[0]
    workspace.emit(StageEntered(stage="proof", detail="checking equivalents on all examples"))
    equal = _fastest_equivalent(workspace, race, evaluator, first, original)
    equal_trial, equal_built, equal_proof = equal
    chain = [] if too_few else plan(workspace, race.trials, cost(equal_trial, goal))
    if chain:
        workspace.emit(StageEntered(stage="proof", detail=f"testing {len(chain)} in order"))
    with workspace.clock.phase("prove"):
        pairs = [(trial, build(workspace, trial.recipe)) for trial in chain]
        proofs = prove_in_order(workspace, evaluator, pairs, race.drops, ledger)
    proven = [proof for proof in proofs if proof.claim is not None]
    builds = {trial.number: item for trial, item in pairs}
    chosen = _choose(workspace, proven, builds)
    timings: dict[str, PairTiming] = {}
    reason = _none_better(race.trials, goal, finished=race.finished)
    if chosen is None and proofs:
        reason = f"{proofs[0].trial.recipe} {proofs[0].reason}"
    elif too_few:
        reason = "too few examples to prove anything but equivalence"
    won: Final | None = None
    if chosen is not None:
        built = builds[chosen.trial.number]
        won = Final(chosen.trial, built, _evidence(chosen))
        try:
            timed = _pair(
                workspace, equal_built, built, share=0.5, label="the chosen against the equivalent"
            )
        except TimingFailed as error:
            if error.side == "a":
                raise
            # The equivalent is still a good answer: a whole search is not lost over one that fails.
            reason = f"{won.trial.recipe} failed when it was timed again: {reason_of(error.error)}"
        else:
            reason = _not_better(workspace, timed, won, equal_trial)
            if not reason:
                timings["equivalent/delivered"] = timed
        if reason:
            won = None
    same = equal_built is original
    equivalent = Final(equal_trial, equal_built, _evidence(equal_proof))
    # One object where they are one: what is measured of the original is the equivalent's too.
    finals = {
        "original": equivalent if same else Final(first, original, first.evidence),
        "equivalent": equivalent,
    }
    if won is None and not same:
        timed = _pair(
            workspace, original, equal_built, share=0.7, label="the equivalent against the original"
        )
        if goal not in ("memory", "size") and not _surely_better(workspace, timed):
            # What was given is what goes back.
            finals["equivalent"] = finals["original"]
            same = True
        else:
            timings["original/equivalent"] = timed
    delivered = won or finals["equivalent"]
    if won is not None and not same:
        timings["original/delivered"] = _pair(
            workspace, original, won.built, share=0.7, label="the chosen against the original"
        )
    elif won is not None:
        timings["original/delivered"] = timings["equivalent/delivered"]
    if not timings:
        # The original against itself: its latency, and how well this machine can tell times apart.
        timings["original/original"] = _pair(
            workspace, original, original, share=0.4, label="the original against itself"
        )
    faster_equivalent = won is None and not same
    improved = won is not None or (too_few and faster_equivalent)
    if improved:
        reason = ""
    claim = chosen.claim if won is not None and chosen is not None else equal_proof.claim
    workspace.emit(StageEntered(stage="timing", detail="memory and the latency curve"))
    measure(workspace, finals, delivered, timings, _idle(workspace))
    _warn_of_limit(workspace, delivered)
    return Delivery(
        improved=improved,
        reason=reason,
        claim=claim,
        original=finals["original"],
        equivalent=finals["equivalent"],
        delivered=delivered,
        proofs=[*proofs, equal_proof],
        near_miss=(
            None if won is not None else _near_miss(workspace, race, equal_trial, proofs, chosen)
        ),
        timings=timings,
        curve=latency_curve(
            workspace, delivered, sorted({*_CURVE, delivered.built.recipe.deploy.batch})
        ),
    )


def _fastest_equivalent(
    workspace: Workspace, race: Race, evaluator: Evaluator, first: Trial, original: Built
) -> tuple[Trial, Built, Proof]:
    """The best exact trial whose outputs hold on all examples; the original itself at worst."""
    goal = workspace.task.goal
    waiting = [
        trial
        for trial in race.trials
        if trial.equivalent and trial.status in ("alive", "front") and speed(trial) is not None
    ]
    with workspace.clock.phase("prove"):
        for trial in sorted(waiting, key=lambda trial: cost(trial, goal)):
            built = original if trial.number == 0 else build(workspace, trial.recipe)
            try:
                proof = equivalence(workspace, evaluator, trial, built)
            except StropError as error:
                workspace.emit(Warned(message=f"{trial.recipe}: {reason_of(error)}"))
                continue
            if proof.claim is not None:
                return trial, built, proof
        return first, original, equivalence(workspace, evaluator, first, original)


def _choose(
    workspace: Workspace, proven: Sequence[Proof], builds: Mapping[int, Built]
) -> Proof | None:
    """The best of the proven at the goal, after a round of duels where the goal is timed."""
    goal = workspace.task.goal
    if len(proven) < 2 or goal in ("memory", "size"):
        return min(proven, key=lambda proof: cost(proof.trial, goal), default=None)

    def duel(champion: Proof, challenger: Proof) -> Interval | None:
        if workspace.clock.left < _DUEL_LEAST / _DUEL_SHARE:
            return None
        numbers = champion.trial.number, challenger.trial.number
        try:
            timed = _pair(
                workspace,
                builds[numbers[0]],
                builds[numbers[1]],
                share=_DUEL_SHARE,
                least=_DUEL_LEAST,
                launches=_DUEL_LAUNCHES,
                label="#{} against #{}, both proven".format(*numbers),
            )
        except TimingFailed as error:
            loser = (champion if error.side == "a" else challenger).trial
            workspace.emit(
                Warned(message=f"{loser.recipe} failed when timed: {reason_of(error.error)}")
            )
            ratio = math.inf if error.side == "a" else 0.0
            return Interval(estimate=ratio, low=ratio, high=ratio)
        return _gain(workspace, timed)

    contenders = [
        Contender(proof, 1 / cost(proof.trial, goal), memory.file if memory else None)
        for proof in proven
        for memory in [proof.trial.evidence.memory]
    ]
    return playoff(contenders, duel).of


def _pair(
    workspace: Workspace,
    a: Built,
    b: Built,
    *,
    share: float,
    label: str,
    least: float | None = None,
    launches: int = _LAUNCHES,
) -> PairTiming:
    """Fresh launches of both within a share of the time left."""
    workspace.emit(StageEntered(stage="timing", detail=label))
    inputs = timing_inputs(workspace, a.recipe.deploy.batch)
    b_inputs = timing_inputs(workspace, b.recipe.deploy.batch)
    payloads = tuple(
        None if (payload := workspace.payload_for(item.spec)) is None else payload.tobytes()
        for item in (a, b)
    )
    clock = workspace.clock
    if least is None:
        # Fewer than a handful of launches can show nothing: better late than a found answer lost.
        least = max(5.0, min(_LEAST_SECONDS, clock.budget / 8), _LEAST_SHARE * clock.budget)
    seconds = max(clock.left * share, least)
    with clock.phase("time"):
        timed = pair(
            a.spec,
            b.spec,
            inputs,
            b_inputs=b_inputs,
            launches=launches,
            quads=_QUADS,
            warmup_seconds=min(3.0, seconds / (4 * launches)),
            payloads=(payloads[0], payloads[1]),
            emit=workspace.say,
            conditions=Conditions(
                cpus=workspace.target.machine.cpus,
                deadline=time.monotonic() + seconds,
                concurrent=at_once(workspace.task.goal),
            ),
        )
    if not timed.launches:
        workspace.emit(
            Warned(
                message=f"{label}: no launch ended within {seconds:.0f} s, so there is no figure; "
                "is the machine busy (strop doctor)? A larger --budget gives more time"
            )
        )
    return timed


def _low(timing: PairTiming) -> float | None:
    """Lower confidence bound of the speed-up; None where no launch was finished."""
    return speedup(timing, "").ratio.low if timing.launches else None


def _gain(workspace: Workspace, timing: PairTiming) -> Interval | None:
    """How many times better b is at what the goal wants; None where that was not told."""
    if not timing.launches:
        return None
    if workspace.task.goal != "energy":
        return speedup(timing, "").ratio
    kind = kind_of(timing.a_used, timing.b_used)
    saved = saved_against(workspace.target, timing.a_used, timing.b_used, "", kind, timing.batches)
    return None if saved is None else saved.ratio


def _surely_better(workspace: Workspace, timing: PairTiming) -> bool:
    """Whether b is better than a at the goal beyond doubt, and no slower than a goal allows."""
    gain, low = _gain(workspace, timing), _low(timing)
    if gain is None or low is None or gain.low < 1.0:
        return False
    return workspace.task.goal != "energy" or low >= SLOWEST


def _not_better(workspace: Workspace, timing: PairTiming, won: Final, equal: Trial) -> str:
    """Why the chosen one may not be delivered as an improvement; empty when it may."""
    goal = workspace.task.goal
    low = _low(timing)
    name = str(won.trial.recipe)
    if low is None:
        return f"the budget ended before {name} could be timed again"
    if goal in ("memory", "size"):
        if cost(won.trial, goal) >= cost(equal, goal):
            return f"{name} does not take less {goal} than the fastest equivalent"
    else:
        gain = _gain(workspace, timing)
        if gain is None:
            return f"the energy of {name} could not be told"
        if gain.low <= 1.0:
            surely = "taking less energy" if goal == "energy" else "faster"
            return f"{name} is not surely {surely} than the fastest equivalent: " + (
                f"{gain.estimate:.2f}× [{gain.low:.2f}, {gain.high:.2f}]"
                if timing.launches > 1
                else f"{gain.estimate:.2f}× in the one launch that there was time for, "
                "which has no interval; raise --budget"
            )
        if same_cost := saves_none(workspace.target, timing, name):
            return same_cost
        limit = workspace.target.max_p99_seconds
        if limit is not None:
            seconds = float(np.quantile(np.concatenate(timing.b_seconds), 0.99))
            if seconds > limit:
                return f"{name} has a p99 of {seconds * 1e3:.2f} ms: over --max-p99"
    if goal in ("memory", "size", "energy") and low < SLOWEST:
        return f"{name} takes less {goal} but may be slower: {low:.2f}× at worst"
    return ""


def _warn_of_limit(workspace: Workspace, delivered: Final) -> None:
    """Say so where what goes back does not keep the limit on p99, as nothing did."""
    limit = workspace.target.max_p99_seconds
    for latency in delivered.evidence.latency[:1]:
        if limit is not None and latency.p99.estimate > limit:
            workspace.emit(
                Warned(
                    message=f"what is delivered has a p99 of {latency.p99.estimate * 1e3:.3g} ms: "
                    "nothing better was found within --max-p99"
                )
            )


def _idle(workspace: Workspace) -> float | None:
    """Watts of the idle machine by its energy counters; None where it has none."""
    found = meter(workspace.target.device)
    return None if found is None else idle_watts(found)


def _none_better(trials: Sequence[Trial], goal: str, *, finished: bool) -> str:
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


def _near_miss(
    workspace: Workspace, race: Race, equal: Trial, proofs: list[Proof], chosen: Proof | None
) -> NearMiss | None:
    """The fastest candidate that could not be claimed, told from *search* alone.

    What *prove* said of it stays unpublished: it would make every later candidate adaptive.
    """
    goal = workspace.task.goal
    tried = {proof.trial.number: proof.claim is not None for proof in proofs}
    candidates = [
        trial
        for trial in race.trials
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


def _evidence(proof: Proof) -> Evidence:
    return proof.trial.evidence.model_copy(update={"prove_quality": proof.quality})
