"""Canonical order, to the end: what a patient person would do by hand."""

from __future__ import annotations

from collections.abc import Sequence

from strop.records import Recipe, Trial
from strop.search.space import JointSpace
from strop.search.strategies._base import Strategy


class Exhaustive(Strategy):
    """The simplest untried recipe."""

    name = "exhaustive"

    def propose(
        self, space: JointSpace, history: Sequence[Trial], *, tolerance: float, seed: int
    ) -> Recipe | None:
        left = space.untried(history)
        return left[0] if left else None
