"""The contract of a strategy: propose what to try next, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from strop.records import Recipe, Trial
from strop.search.space import JointSpace


class Strategy(ABC):
    """Proposes recipes; the race alone decides how far each is taken.

    `propose` is a pure function of its arguments: replaying a journal gives the same proposals,
    which is what makes a search resumable and a result reproducible.
    """

    name: ClassVar[str]

    @abstractmethod
    def propose(
        self, space: JointSpace, history: Sequence[Trial], *, tolerance: float, seed: int
    ) -> Recipe | None:
        """The next recipe, one that no trial in `history` has; None when nothing is left."""
