"""The three that the report compares: what was measured of each, in launches of their own."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from strop.errors import StropError
from strop.measure import Conditions, PairTiming, Usage, curve, kind_of, peak, speedup, summarise
from strop.records import BatchLatency, Evidence, Latency, Memory, Saving, Speedup, Trial, Warned
from strop.search.builder import Built
from strop.search.spending import priced, saved_against, spent
from strop.search.typical import timing_inputs
from strop.search.workspace import Workspace, reason_of


@dataclass
class Final:
    """One of the three that the report compares: original, equivalent, delivered."""

    trial: Trial
    built: Built
    evidence: Evidence


def measure(
    workspace: Workspace,
    finals: Mapping[str, Final],
    delivered: Final,
    timings: Mapping[str, PairTiming],
    idle_watts: float | None,
) -> None:
    """Fill in latency, speed-ups, energy, cost and memory of original, equivalent, delivered.

    Parameters
    ----------
    finals
        ``original`` and ``equivalent``, which may be one.
    timings
        Raw launches by pair name.
    idle_watts
        What the energy counters showed while nothing ran; None where there are none.
    """
    everyone = {**finals, "delivered": delivered}
    # All of them in one way: a counter's joules do not stand beside an estimate.
    kind = kind_of(
        *(used for timing in timings.values() for used in (timing.a_used, timing.b_used))
    )
    for final in {id(final): final for final in everyone.values()}.values():
        names = [name for name, other in everyone.items() if other is final]
        own = _Own(final)
        for label, timing in timings.items():
            left, right = label.split("/")
            if not timing.launches:
                continue
            if (right if right in names else left) not in names:
                continue
            own.take(timing, as_b=right in names)
            new = left != right and all(found.against != left for found in own.speedups)
            if right in names and new:
                own.speedups.append(speedup(timing, left))
                saved = saved_against(
                    workspace.target, timing.a_used, timing.b_used, left, kind, timing.batches
                )
                own.savings += [] if saved is None else [saved]
        batch = final.built.recipe.deploy.batch
        latency = own.latency(batch)
        target = workspace.target
        final.evidence = final.evidence.model_copy(
            update={
                "latency": () if latency is None else (latency,),
                "speedups": tuple(own.speedups),
                "energy": spent(target, own.used, batch=batch, kind=kind, idle_watts=idle_watts),
                "savings": tuple(own.savings),
                "cost": None if latency is None else priced(target, latency),
                "memory": _memory(workspace, final),
            }
        )


def latency_curve(
    workspace: Workspace, delivered: Final, batches: Sequence[int]
) -> tuple[BatchLatency, ...]:
    """Latency a batch size: what a server's batcher starts from."""
    if not workspace.model.signature.batch_is_dynamic:
        return ()
    inputs = {batch: timing_inputs(workspace, batch) for batch in batches}
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


class _Own:
    """One final's figures, from the first pair that it was timed in."""

    def __init__(self, final: Final) -> None:
        self._placement = final.built.spec.placement
        self.speedups: list[Speedup] = []
        self.savings: list[Saving] = []
        self.used: tuple[Usage, ...] = ()
        self._calls: tuple[np.ndarray, ...] = ()
        self._rate: float | None = None

    def take(self, timing: PairTiming, *, as_b: bool) -> None:
        if not self._calls:
            self._calls = timing.b_seconds if as_b else timing.a_seconds
            self.used = timing.b_used if as_b else timing.a_used
            self._rate = timing.rates[as_b] if timing.concurrent else None

    def latency(self, batch: int) -> Latency | None:
        if not self._calls:
            return None
        return summarise(
            self._calls,
            batch=batch,
            threads=self._placement.threads,
            streams=self._placement.streams,
            rate=self._rate,
        )


def _memory(workspace: Workspace, final: Final) -> Memory | None:
    memory = final.evidence.memory or final.trial.evidence.memory
    payload = workspace.payload_for(final.built.spec)
    try:
        with workspace.clock.phase("time"):
            resident = peak(
                final.built.spec,
                timing_inputs(workspace, final.built.recipe.deploy.batch),
                None if payload is None else payload.tobytes(),
            )
    except StropError as error:
        workspace.emit(Warned(message=f"memory was not measured: {reason_of(error)}"))
        return memory
    return memory.model_copy(update={"peak": resident}) if memory else None
