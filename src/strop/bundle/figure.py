"""One figure, recorded and computed again."""

from __future__ import annotations

import math
from dataclasses import dataclass

_RELATIVE = 1e-6
"""How far figures may lie apart: libraries of other machines round sums differently."""


@dataclass(frozen=True)
class Figure:
    """One figure of the manifest beside the same figure computed from the evidence.

    Attributes
    ----------
    recorded, computed
        None where the manifest has no such figure, where the evidence does not give it.
    reason
        Why there is nothing computed.
    """

    name: str
    recorded: float | None
    computed: float | None
    reason: str = ""

    @property
    def agrees(self) -> bool | None:
        """Whether both are the same up to rounding; None where nothing was computed."""
        if self.computed is None:
            return None
        if self.recorded is None:
            return False
        if math.isnan(self.recorded) or math.isnan(self.computed):
            return math.isnan(self.recorded) and math.isnan(self.computed)
        return math.isclose(self.recorded, self.computed, rel_tol=_RELATIVE, abs_tol=1e-9)

    def __str__(self) -> str:
        if self.computed is None:
            return f"{self.name}: {self.reason}"
        recorded = "nothing" if self.recorded is None else f"{self.recorded:.6g}"
        return f"{self.name}: {recorded} recorded, {self.computed:.6g} computed"
