"""What "better" means for a goal, and which trials nothing else beats."""

from __future__ import annotations

import math
from collections.abc import Sequence

from strop.records import Goal, Trial

_STAKE = math.log(2 / 0.05)
"""What a bet must win to prove at α/2, the share of the error that a first run has, for α = 5%."""
SLOWEST = 0.95
"""What takes less memory or energy may have this share of the equivalent's speed, at worst."""


def speed(trial: Trial) -> float | None:
    """How many times faster than the anchor, by the race's interleaved rounds."""
    for found in trial.evidence.speedups:
        if found.against == "anchor":
            return found.ratio.estimate
    return None


def saved(trial: Trial) -> float | None:
    """How many times less energy than the anchor's an inference takes, by the race's rounds."""
    for found in trial.evidence.savings:
        if found.against == "anchor":
            return found.ratio.estimate
    return None


def at_once(goal: Goal) -> bool:
    """Whether calls are timed while as many run at once as a session has streams.

    Inferences cost what the machine costs in the meantime: the cheapest are those of which it
    computes most.
    """
    return goal in ("throughput", "cost")


def cost(trial: Trial, goal: Goal) -> float:
    """What the goal wants small: relative time or energy a call, peak bytes, or bytes on disk.

    For throughput and cost the race has timed calls that run at once, so that the time a call is
    the reciprocal of the rate; what a machine costs is the same for all and changes no order.
    """
    memory = trial.evidence.memory
    if goal == "size":
        return float(memory.file) if memory else math.inf
    if goal == "memory":
        return float(memory.peak) if memory and memory.peak else math.inf
    ratio = speed(trial)
    if goal == "energy" and ratio:
        # What is too slow to be delivered must not stand before what could be.
        ratio = saved(trial) if ratio >= SLOWEST else None
    return 1 / ratio if ratio else math.inf


def likely_bound(trial: Trial) -> float | None:
    """The drop that *prove* will probably have to allow for, as *search* tells it.

    The estimate plus 0.6 of its interval's half-width is about the one-sided 95% bound on a proof
    set of twice as many examples. Bets on bounded scores pay more: some ln(1/α)/n even where
    nothing varies. None where nothing was scored.
    """
    quality = trial.evidence.search_quality
    if quality is None:
        return None
    drop = quality.drop
    if math.isnan(drop.high):
        return drop.estimate
    if quality.kind == "bounded":
        return drop.estimate + 0.8 * (drop.high - drop.estimate) + _STAKE / (2 * quality.n)
    return drop.estimate + 0.6 * (drop.high - drop.estimate)


def may_hold(trial: Trial, tolerance: float) -> bool:
    """Whether the trial is worth counting as the best so far."""
    bound = likely_bound(trial)
    return trial.equivalent or (bound is not None and bound < tolerance)


def sureness(trial: Trial, tolerance: float) -> float:
    """Standard errors between the drop seen on *search* and the tolerance; larger is surer."""
    quality = trial.evidence.search_quality
    if quality is None:
        return -math.inf
    if math.isnan(quality.drop.low):
        return (tolerance - quality.drop.estimate) / tolerance
    spread = (quality.drop.high - quality.drop.low) / (2 * 1.96)
    return (tolerance - quality.drop.estimate) / max(spread, 1e-12)


def pareto(trials: Sequence[Trial]) -> tuple[int, ...]:
    """Numbers of the trials that no other beats in quality, latency, memory and size at once.

    Throughput adds no axis: it is the batch over the latency, unless it is the goal, and then it
    is what was timed instead of the latency.
    """
    points = []
    for trial in trials:
        quality, ratio, memory = trial.evidence.search_quality, speed(trial), trial.evidence.memory
        if trial.status == "failed" or quality is None or ratio is None or memory is None:
            continue
        point = (quality.drop.estimate, 1 / ratio, float(memory.peak or 0), float(memory.file))
        points.append((trial.number, point))
    return tuple(
        number
        for number, point in points
        if not any(_dominates(other, point) for _, other in points)
    )


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
