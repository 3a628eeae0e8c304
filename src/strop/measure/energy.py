"""Joules of an inference: measured by counters, else estimated from CPU seconds, never both."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from strop.measure.meter import Usage
from strop.measure.watts import Watts
from strop.proof.speed import ratio_interval
from strop.records import Energy, EnergyKind, Interval, Saving


def kind_of(*usages: Sequence[Usage]) -> EnergyKind:
    """How the energy of all these launches can be told: one kind for all that are compared.

    Measured only where every launch was counted, and no counter stood still, as some virtual
    machines' do.
    """
    every = [usage for launches in usages for usage in launches]
    return "measured" if every and all(usage.joules for usage in every) else "estimated"


def energy(
    usages: Sequence[Usage],
    *,
    batch: int,
    watts: Watts,
    kind: EnergyKind,
    counters: str = "",
    idle_watts: float | None = None,
    confidence: float = 0.95,
) -> Energy | None:
    """The energy of one inference over launches.

    Parameters
    ----------
    usages
        One a launch.
    batch
        Inferences a call.
    kind
        What :func:`kind_of` said of all that this one is to be compared with.
    counters
        The meter's name.

    Returns
    -------
    Energy
        None where not one call was timed, or the clock of CPU time stood still.

    Examples
    --------
    >>> found = energy(
    ...     [Usage(10, 1.0, 2.0), Usage(10, 1.0, 2.0)], batch=4, watts=Watts(3.0, "given"),
    ...     kind="estimated",
    ... )
    >>> round(found.joules.estimate, 9), found.cpu_seconds, found.source
    (0.15, 0.05, 'CPU time at 3 W (given)')
    """
    spent = [usage for usage in usages if usage.calls]
    each = [_joules(usage, kind, watts) / (usage.calls * batch) for usage in spent]
    if not each or not all(joules > 0 for joules in each):
        return None
    inferences = batch * sum(usage.calls for usage in spent)
    if estimated := kind == "estimated":
        source = f"CPU time at {watts.per_core:.3g} W ({watts.source})"
        formula = (
            f"CPU seconds of an inference, all threads, × {watts.per_core:.3g} W of a busy core"
        )
    else:
        source = counters
        formula = "joules counted during the timed calls ÷ inferences, idle power included"
    return Energy(
        kind=kind,
        source=source,
        joules=_interval(np.log(each), confidence),
        cpu_seconds=sum(usage.cpu_seconds for usage in spent) / inferences,
        launches=len(spent),
        formula=formula,
        watts_per_core=watts.per_core if estimated else None,
        idle_watts=None if estimated else idle_watts,
    )


def saving(
    reference: Sequence[Usage],
    candidate: Sequence[Usage],
    against: str,
    *,
    kind: EnergyKind | None = None,
    batches: tuple[int, int] = (1, 1),
    confidence: float = 0.95,
) -> Saving | None:
    """How many times less energy the candidate's inferences took, launch by launch.

    Both sides are told in the same way, and the watts of an estimate cancel. None where there is
    no launch, or a clock of CPU time stood still.

    Parameters
    ----------
    reference, candidate
        One usage a launch, in pairs.
    kind
        None means measured where both sides were.
    batches
        Inferences a call, of the reference and of the candidate.

    Examples
    --------
    >>> found = saving([Usage(10, 1.0, 2.0)], [Usage(10, 1.0, 0.5)], "original")
    >>> round(found.ratio.estimate, 9), found.kind
    (4.0, 'estimated')
    """
    told = kind or kind_of(reference, candidate)
    unit = Watts(1.0, "")
    logs = []
    for one, other in zip(reference, candidate, strict=True):
        if not one.calls or not other.calls:
            return None
        joules = [
            _joules(usage, told, unit) / (usage.calls * batch)
            for usage, batch in zip((one, other), batches, strict=True)
        ]
        if not all(value > 0 for value in joules):
            return None
        logs.append(math.log(joules[0] / joules[1]))
    if not logs:
        return None
    return Saving(
        against=against, kind=told, ratio=_interval(np.array(logs), confidence), launches=len(logs)
    )


def _joules(usage: Usage, kind: EnergyKind, watts: Watts) -> float:
    if kind == "measured":
        return usage.joules or 0.0
    return usage.cpu_seconds * watts.per_core


def _interval(logs: np.ndarray, confidence: float) -> Interval:
    """Across launches, on the log scale; one launch gives no ends."""
    if len(logs) == 1:
        estimate, low, high = math.exp(float(logs[0])), 0.0, math.inf
    else:
        estimate, low, high = ratio_interval(logs, confidence)
    return Interval(estimate=estimate, low=low, high=high, confidence=confidence)
