"""Joules of an inference, and how they are known."""

from __future__ import annotations

from typing import Literal

from strop.records._base import Record
from strop.records.interval import Interval

EnergyKind = Literal["measured", "estimated"]


class Energy(Record):
    """Joules of one inference: of one example, whatever the batch it came in.

    Two of them may be compared only where :meth:`comparable` says so: a counter and a model never
    stand in one comparison.

    Attributes
    ----------
    kind
        ``measured`` by hardware counters, or ``estimated`` from CPU seconds.
    source
        The counters by name, or the model with its watts and where they come from.
    joules
        With an interval across launches; without ends from one launch.
    cpu_seconds
        CPU seconds of an inference, all threads of the process.
    launches
        Fresh processes that it was taken from.
    formula
        How `joules` were computed, in words.
    watts_per_core
        The estimate's figure: watts of one busy logical CPU; None where measured.
    idle_watts
        What the counters showed while nothing ran, which is part of `joules`; None where
        estimated, or not taken.
    """

    kind: EnergyKind
    source: str
    joules: Interval
    cpu_seconds: float
    launches: int
    formula: str
    watts_per_core: float | None = None
    idle_watts: float | None = None

    @property
    def grounds(self) -> str:
        """The formula, and what its figures rest on."""
        told = f"CPU time at {self.watts_per_core or 0:.3g} W "
        if self.source.startswith(told):  # the formula has said as much
            return f"{self.formula} {self.source.removeprefix(told)}"
        return f"{self.formula}; {self.source}"

    def comparable(self, other: Energy) -> bool:
        """Whether the two were found in the same way."""
        return (self.kind, self.source) == (other.kind, other.source)


class Saving(Record):
    """How many times less energy an inference takes than one of `against`, paired by launches.

    Attributes
    ----------
    against
        ``original``, ``equivalent`` or ``anchor``, as :class:`~strop.records.Speedup` has it.
    kind
        How both sides' joules are known.
    ratio
        Joules of `against` over joules of this one; above 1 is less energy.
    """

    against: str
    kind: EnergyKind
    ratio: Interval
    launches: int
