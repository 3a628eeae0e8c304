"""The energy and the cost of a LoadGen run."""

from __future__ import annotations

from dataclasses import dataclass

from strop.benching.record import ScenarioResult
from strop.measure import Usage, Watts, cost, energy, kind_of
from strop.records import Cost, Energy, Price


@dataclass(frozen=True)
class Spending:
    """How energy and cost are told on this machine.

    Attributes
    ----------
    watts
        Of an estimate.
    device
        What the session runs on: CPU seconds say nothing of another device than the CPU.
    counters, idle_watts
        The energy counters by name, and what they showed while nothing ran; empty and None where
        there are none.
    price
        Of the machine; None where none was given.
    """

    watts: Watts
    device: str = "cpu"
    counters: str = ""
    idle_watts: float | None = None
    price: Price | None = None

    def added(self, found: ScenarioResult, used: Usage) -> ScenarioResult:
        """A scenario's result with the energy and the cost of its run."""
        return found.model_copy(update={"energy": self._energy(used), "cost": self._cost(found)})

    def _energy(self, used: Usage) -> Energy | None:
        kind = kind_of([used])
        if kind == "estimated" and self.device != "cpu":
            return None
        return energy(
            [used],
            batch=1,
            watts=self.watts,
            kind=kind,
            counters=self.counters,
            idle_watts=self.idle_watts,
        )

    def _cost(self, found: ScenarioResult) -> Cost | None:
        if self.price is None:
            return None
        rate = found.samples_per_second
        bound = f"a machine that does what this run did, {rate:,.1f} inferences/s"
        if found.slo_seconds is not None:
            kept = "kept" if found.slo_kept else "not kept"
            bound += f", the SLO of {found.slo_seconds * 1e3:.3g} ms {kept}"
        return cost(self.price, rate, bound=bound)
