"""The end of a search: prove, choose, time the chosen again, and never give back worse."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from strop.errors import StropError
from strop.measure import Conditions, PairTiming, curve, pair, peak, speedup, summarise
from strop.records import (
    BatchLatency,
    Claim,
    Evidence,
    Latency,
    NearMiss,
    Speedup,
    StageEntered,
    Trial,
    Warned,
)
from strop.search.builder import Built, build
from strop.search.evaluator import Evaluator
from strop.search.ledger import Ledger
from strop.search.objective import cost, speed, sureness
from strop.search.prove import Proof, equivalence, plan, prove_in_order
from strop.search.race import Race, timing_inputs
from strop.search.workspace import Workspace, reason_of

_LAUNCHES, _QUADS = 10, 4
_LEAST_SECONDS, _LEAST_SHARE = 15.0, 0.05
_CURVE = (1, 2, 4, 8, 16, 32)


@dataclass
class Final:
    """One of the three that the report compares: original, equivalent, delivered."""

    trial: Trial
    built: Built
    evidence: Evidence


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
    chosen = min(proven, key=lambda proof: cost(proof.trial, goal), default=None)
    timings: dict[str, PairTiming] = {}
    reason = "no candidate outside exact arithmetic was faster on the search examples"
    if chosen is None and proofs:
        reason = f"{proofs[0].trial.recipe} {proofs[0].reason}"
    elif too_few:
        reason = "too few examples to prove anything but equivalence"
    won: Final | None = None
    if chosen is not None:
        built = next(item for trial, item in pairs if trial.number == chosen.trial.number)
        won = Final(chosen.trial, built, _evidence(chosen))
        timed = _pair(
            workspace, equal_built, built, share=0.5, label="the chosen against the equivalent"
        )
        reason = _not_better(workspace, timed, won, equal_trial)
        if reason:
            won = None
        else:
            timings["equivalent/delivered"] = timed
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
        if (_low(timed) or 0.0) < 1.0 and goal in ("latency", "throughput"):
            # Not surely faster: what was given is what goes back.
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
    _measure(workspace, finals, delivered, timings)
    return Delivery(
        improved=improved,
        reason=reason,
        claim=claim,
        original=finals["original"],
        equivalent=finals["equivalent"],
        delivered=delivered,
        proofs=[*proofs, equal_proof],
        near_miss=None if won is not None else _near_miss(workspace, race, equal_trial, proofs),
        timings=timings,
        curve=_curve(workspace, delivered),
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


def _pair(workspace: Workspace, a: Built, b: Built, *, share: float, label: str) -> PairTiming:
    """Fresh launches of both within a share of the time left."""
    workspace.emit(StageEntered(stage="timing", detail=label))
    inputs = timing_inputs(workspace, workspace.task.batch)
    payloads = tuple(
        None if (payload := workspace.payload_for(item.spec)) is None else payload.tobytes()
        for item in (a, b)
    )
    clock = workspace.clock
    # Fewer than a handful of launches can show nothing: better late than a found answer lost.
    least = max(5.0, min(_LEAST_SECONDS, clock.budget / 8), _LEAST_SHARE * clock.budget)
    seconds = max(clock.left * share, least)
    with clock.phase("time"):
        return pair(
            a.spec,
            b.spec,
            inputs,
            launches=_LAUNCHES,
            quads=_QUADS,
            warmup_seconds=min(3.0, seconds / (4 * _LAUNCHES)),
            payloads=(payloads[0], payloads[1]),
            emit=workspace.say,
            conditions=Conditions(
                cpus=workspace.target.machine.cpus,
                deadline=time.monotonic() + seconds,
                concurrent=workspace.task.goal == "throughput",
            ),
        )


def _low(timing: PairTiming) -> float | None:
    """Lower confidence bound of the speed-up; None where no launch was finished."""
    return speedup(timing, "").ratio.low if timing.launches else None


def _not_better(workspace: Workspace, timing: PairTiming, won: Final, equal: Trial) -> str:
    """Why the chosen one may not be delivered as an improvement; empty when it may."""
    goal = workspace.task.goal
    low = _low(timing)
    name = str(won.trial.recipe)
    if low is None:
        return f"the budget ended before {name} could be timed again"
    if goal in ("latency", "throughput"):
        if low <= 1.0:
            ratio = speedup(timing, "").ratio
            return (
                f"{name} is not surely faster than the fastest equivalent: "
                f"{ratio.estimate:.2f}× [{ratio.low:.2f}, {ratio.high:.2f}]"
            )
        limit = workspace.target.max_p99_seconds
        if limit is not None:
            seconds = float(np.quantile(np.concatenate(timing.b_seconds), 0.99))
            if seconds > limit:
                return f"{name} has a p99 of {seconds * 1e3:.2f} ms: over --max-p99"
        return ""
    if cost(won.trial, goal) >= cost(equal, goal):
        return f"{name} does not take less {goal} than the fastest equivalent"
    if low < 0.95:
        return f"{name} takes less {goal} but may be slower: {low:.2f}× at worst"
    return ""


def _measure(
    workspace: Workspace,
    finals: Mapping[str, Final],
    delivered: Final,
    timings: Mapping[str, PairTiming],
) -> None:
    """Fill in latency, speed-ups and memory of the original, the equivalent, the delivered."""
    batch = workspace.task.batch
    inputs = timing_inputs(workspace, batch)
    everyone = {**finals, "delivered": delivered}
    for final in {id(final): final for final in everyone.values()}.values():
        names = [name for name, other in everyone.items() if other is final]
        calls: list[np.ndarray] = []
        rate: float | None = None
        speedups: list[Speedup] = []
        for label, timing in timings.items():
            left, right = label.split("/")
            if not timing.launches:
                continue
            if (right if right in names else left) not in names:
                continue
            if not calls:
                side = right in names
                calls = list(timing.b_seconds if side else timing.a_seconds)
                rate = timing.rates[side] if timing.concurrent else None
            new = left != right and all(found.against != left for found in speedups)
            if right in names and new:
                speedups.append(speedup(timing, left))
        latency: tuple[Latency, ...] = ()
        if calls:
            placement = final.built.spec.placement
            found = summarise(
                calls,
                batch=batch,
                threads=placement.threads,
                streams=placement.streams,
                rate=rate,
            )
            latency = (found,)
        memory = final.evidence.memory or final.trial.evidence.memory
        payload = workspace.payload_for(final.built.spec)
        try:
            with workspace.clock.phase("time"):
                resident = peak(
                    final.built.spec, inputs, None if payload is None else payload.tobytes()
                )
        except StropError as error:
            workspace.emit(Warned(message=f"memory was not measured: {reason_of(error)}"))
        else:
            memory = memory.model_copy(update={"peak": resident}) if memory else None
        final.evidence = final.evidence.model_copy(
            update={"latency": latency, "speedups": tuple(speedups), "memory": memory}
        )


def _curve(workspace: Workspace, delivered: Final) -> tuple[BatchLatency, ...]:
    """Latency a batch size: what a server's batcher starts from."""
    if not workspace.model.signature.batch_is_dynamic:
        return ()
    inputs = {batch: timing_inputs(workspace, batch) for batch in _CURVE}
    payload = workspace.payload_for(delivered.built.spec)
    try:
        with workspace.clock.phase("time"):
            return curve(
                delivered.built.spec,
                inputs,
                seconds=0.3,
                payload=None if payload is None else payload.tobytes(),
                conditions=Conditions(deadline=time.monotonic() + max(workspace.clock.left, 5.0)),
            )
    except StropError as error:
        workspace.emit(Warned(message=f"the latency curve was not measured: {reason_of(error)}"))
        return ()


def _near_miss(
    workspace: Workspace, race: Race, equal: Trial, proofs: list[Proof]
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
        reason = "proven, but not surely better than the equivalent when timed again"
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
