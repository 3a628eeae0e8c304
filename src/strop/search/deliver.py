"""The end of a search: prove, choose, time the chosen again, and never give back worse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from strop.errors import StropError
from strop.measure import (
    PairTiming,
    TimingFailed,
    idle_watts,
    meter,
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
from strop.search.near_miss import near_miss, none_better
from strop.search.objective import cost, speed
from strop.search.playoff import Contender, playoff
from strop.search.prove import Proof, equivalence, plan, prove_in_order
from strop.search.race import Race
from strop.search.retiming import gain, not_better, retime, surely_better
from strop.search.workspace import Workspace, reason_of

# A duel between two of the proven only orders them; with less time than this it says nothing.
_DUEL_LAUNCHES, _DUEL_SHARE, _DUEL_LEAST = 5, 0.12, 4.0
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
    chain = [] if too_few else plan(workspace, race.trials, cost(equal.final.trial, goal))
    if chain:
        workspace.emit(StageEntered(stage="proof", detail=f"testing {len(chain)} in order"))
    with workspace.clock.phase("prove"):
        pairs = [(trial, build(workspace, trial.recipe)) for trial in chain]
        proofs = prove_in_order(workspace, evaluator, pairs, race.drops, ledger)
    builds = {trial.number: item for trial, item in pairs}
    chosen = _choose(workspace, [proof for proof in proofs if proof.claim is not None], builds)
    timings: dict[str, PairTiming] = {}
    won: Final | None = None
    if chosen is not None:
        won = Final(chosen.trial, builds[chosen.trial.number], _evidence(chosen))
        reason = _retimed(workspace, won, equal.final, timings)
        won = None if reason else won
    elif proofs:
        reason = f"{proofs[0].trial.recipe} {proofs[0].reason}"
    elif too_few:
        reason = "too few examples to prove anything but equivalence"
    else:
        reason = none_better(race.trials, goal, finished=race.finished)
    finals = _finals(workspace, equal.final, Final(first, original, first.evidence), won, timings)
    delivered = won or finals["equivalent"]
    faster_equivalent = delivered is not finals["original"]
    improved = won is not None or (too_few and faster_equivalent)
    workspace.emit(StageEntered(stage="timing", detail="memory and the latency curve"))
    measure(workspace, finals, delivered, timings, _idle(workspace))
    _warn_of_limit(workspace, delivered)
    missed = None
    if won is None:
        missed = near_miss(workspace, race.trials, equal.final.trial, proofs, chosen)
    return Delivery(
        improved=improved,
        reason="" if improved else reason,
        claim=chosen.claim if won is not None and chosen is not None else equal.proof.claim,
        original=finals["original"],
        equivalent=finals["equivalent"],
        delivered=delivered,
        proofs=[*proofs, equal.proof],
        near_miss=missed,
        timings=timings,
        curve=latency_curve(
            workspace, delivered, sorted({*_CURVE, delivered.built.recipe.deploy.batch})
        ),
    )


@dataclass(frozen=True)
class _Equivalent:
    """The fastest that gives the original's own outputs, and what shows it."""

    final: Final
    proof: Proof


def _fastest_equivalent(
    workspace: Workspace, race: Race, evaluator: Evaluator, first: Trial, original: Built
) -> _Equivalent:
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
                return _Equivalent(Final(trial, built, _evidence(proof)), proof)
        proof = equivalence(workspace, evaluator, first, original)
        return _Equivalent(Final(first, original, _evidence(proof)), proof)


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
            timed = retime(
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
        return gain(workspace, timed)

    contenders = [
        Contender(proof, 1 / cost(proof.trial, goal), memory.file if memory else None)
        for proof in proven
        for memory in [proof.trial.evidence.memory]
    ]
    return playoff(contenders, duel).of


def _retimed(workspace: Workspace, won: Final, equal: Final, timings: dict[str, PairTiming]) -> str:
    """Why the chosen one may not be delivered, after timing it beside the fastest equivalent.

    Empty where it may; `timings` then has the launches.
    """
    try:
        timed = retime(
            workspace,
            equal.built,
            won.built,
            share=0.5,
            label="the chosen against the equivalent",
        )
    except TimingFailed as error:
        if error.side == "a":
            raise
        # The equivalent is still a good answer: a whole search is not lost over one that fails.
        return f"{won.trial.recipe} failed when it was timed again: {reason_of(error.error)}"
    reason = not_better(workspace, timed, won.trial, equal.trial)
    if not reason:
        timings["equivalent/delivered"] = timed
    return reason


def _finals(
    workspace: Workspace,
    equal: Final,
    original: Final,
    won: Final | None,
    timings: dict[str, PairTiming],
) -> dict[str, Final]:
    """What is told of besides the chosen: ``original`` and ``equivalent``, one object where they
    are one. Each pair that the report compares is timed into `timings`.
    """
    if equal.built is original.built:
        # What is measured of the original is the equivalent's too.
        finals = {"original": equal, "equivalent": equal}
        if won is not None:
            timings["original/delivered"] = timings["equivalent/delivered"]
    else:
        finals = {"original": original, "equivalent": equal}
        if won is not None:
            timings["original/delivered"] = retime(
                workspace,
                original.built,
                won.built,
                share=0.7,
                label="the chosen against the original",
            )
        else:
            timed = retime(
                workspace,
                original.built,
                equal.built,
                share=0.7,
                label="the equivalent against the original",
            )
            timeless = workspace.task.goal in ("memory", "size")
            if timeless or surely_better(workspace, timed):
                timings["original/equivalent"] = timed
            else:
                # What was given is what goes back.
                finals["equivalent"] = original
    if not timings:
        # The original against itself: its latency, and how well this machine can tell times apart.
        timings["original/original"] = retime(
            workspace,
            original.built,
            original.built,
            share=0.4,
            label="the original against itself",
        )
    return finals


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


def _evidence(proof: Proof) -> Evidence:
    return proof.trial.evidence.model_copy(update={"prove_quality": proof.quality})
