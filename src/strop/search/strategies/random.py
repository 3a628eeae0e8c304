"""Uniform random order: the baseline that any other strategy must beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from strop.records import Recipe, Trial
from strop.search.space import JointSpace
from strop.search.strategies._base import Strategy


class RandomOrder(Strategy):
    """Every untried recipe is as likely as any other."""

    name = "random"

    def propose(
        self, space: JointSpace, history: Sequence[Trial], *, tolerance: float, seed: int
    ) -> Recipe | None:
        left = space.untried(history)
        if not left:
            return None
        rng = np.random.default_rng([seed, len(history)])
        return left[int(rng.integers(len(left)))]
