"""What inferences take in joules and in money: of a trial of the race, and of what is delivered."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from strop.measure import (
    ScreenTiming,
    Usage,
    cost,
    energy,
    kind_of,
    meter,
    saving,
    summarise,
    watts,
)
from strop.measure.rapl import obstacle
from strop.records import Cost, Energy, EnergyKind, Latency, Saving, SessionSpec, Target


def screened(
    target: Target,
    spec: SessionSpec,
    timing: ScreenTiming,
    anchor: ScreenTiming,
    *,
    kind: EnergyKind | None,
    batch: int,
    concurrent: bool,
) -> dict[str, Any]:
    """Latency, energy and cost of a trial as fields of its evidence: of one launch, for ordering.

    Parameters
    ----------
    timing, anchor
        The trial's rounds, and the anchor's, of which the last ones went beside the trial's.
    kind
        How energy is told in this search; None where nothing has told it yet.
    batch
        Examples a call of the trial; of the anchor they are the target's.
    concurrent
        Whether calls ran at once, so that the rounds' figures are the time between two that end.
    """
    used = timing.used
    beside = anchor.used[len(anchor.used) - len(used) :]
    whole = reduce(add, used)
    alongside = reduce(add, beside)
    # Some counters stand still for longer than a round lasts, and move in all of them together.
    told = kind or kind_of([alongside], [whole])
    rate = target.batch / float(np.median(timing.rounds)) if concurrent else None
    latency = summarise(
        [timing.calls],
        batch=batch,
        threads=spec.placement.threads,
        streams=spec.placement.streams,
        rate=rate,
    )
    saved = None
    if len(beside) == len(used):
        batches = (target.batch, batch)
        saved = saving(beside, used, "anchor", kind=told, batches=batches) or saving(
            [alongside], [whole], "anchor", kind=told, batches=batches
        )
    return {
        "latency": (latency,),
        "energy": spent(target, [whole], batch=batch, kind=told),
        "savings": () if saved is None else (saved.model_copy(update={"launches": 1}),),
        "cost": priced(target, latency),
    }


def spent(
    target: Target,
    used: Sequence[Usage],
    *,
    batch: int,
    kind: EnergyKind,
    idle_watts: float | None = None,
) -> Energy | None:
    """The energy of one inference, `batch` of them a call; None where it cannot be told.

    CPU seconds say nothing of what another device takes.
    """
    if kind == "estimated" and target.device != "cpu":
        return None
    counters = meter(target.device) if kind == "measured" else None
    return energy(
        used,
        batch=batch,
        watts=watts(target.machine, target.watts_per_core),
        kind=kind,
        counters=counters.name if counters else "",
        idle_watts=idle_watts,
    )


def saved_against(
    target: Target,
    reference: Sequence[Usage],
    candidate: Sequence[Usage],
    against: str,
    kind: EnergyKind,
    batches: tuple[int, int],
) -> Saving | None:
    """How many times less energy the candidate took, where it can be told in that way.

    `batches` are the inferences a call of both.
    """
    if kind == "estimated" and target.device != "cpu":
        return None
    return saving(reference, candidate, against, kind=kind, batches=batches)


def caution(target: Target) -> list[str]:
    """What a user whose goal is energy should know of how it is told."""
    if target.goal != "energy" or meter(target.device) is not None:
        return []
    if target.device != "cpu":
        return [f"the device '{target.device}' has no energy counter: its energy cannot be told"]
    return [f"energy is estimated from CPU time: {obstacle()}"]


def priced(target: Target, latency: Latency) -> Cost | None:
    """What inferences cost at the price that was given, if one was."""
    if target.price is None:
        return None
    calls = "one call at a time" if latency.streams == 1 else f"{latency.streams} calls at once"
    return cost(
        target.price,
        latency.throughput,
        rate=target.rate,
        max_utilisation=target.max_utilisation,
        bound=(
            f"machines used to {target.max_utilisation:.0%} at most, {calls}; 99% of calls within "
            f"{latency.p99.estimate * 1e3:.3g} ms, their waiting not included"
        ),
    )
