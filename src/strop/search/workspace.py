"""What every part of one search shares: the model, the examples, the children, the clock."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from errno import ENOSPC
from pathlib import Path
from typing import Any

import numpy as np

from strop import errors
from strop.data import Dataset
from strop.errors import NotApplicable, StropError
from strop.metrics import Metric
from strop.models.model import Model
from strop.records import Event, Recipe, SessionSpec, Target
from strop.search.cache import Cache
from strop.search.task import Task
from strop.workers import ChildFailed, ChildTimeout, Pool


class Clock:
    """The budget, and where the seconds went.

    Parameters
    ----------
    budget
        Wall seconds for everything.
    reserve
        Share kept for final timing and proof.
    spent
        Seconds that an interrupted run of the same search has used.
    """

    def __init__(self, budget: float, *, reserve: float = 0.25, spent: float = 0.0) -> None:
        self._start = time.monotonic() - spent
        self.budget = budget
        self._reserved = reserve * budget
        self.phases: dict[str, float] = {}
        self._inner: list[float] = []

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._start

    @property
    def race_left(self) -> float:
        """Seconds until the race must stop."""
        return self.budget - self._reserved - self.elapsed

    def reserve(self, seconds: float) -> None:
        """Keep at least so many seconds for the end, but never more than 60% of the budget."""
        self._reserved = max(self._reserved, min(seconds, 0.6 * self.budget))

    @property
    def left(self) -> float:
        return self.budget - self.elapsed

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the seconds inside towards `name`, less those that an inner phase counts."""
        start = time.monotonic()
        self._inner.append(0.0)
        try:
            yield
        finally:
            whole = time.monotonic() - start
            self.phases[name] = self.phases.get(name, 0.0) + whole - self._inner.pop()
            if self._inner:
                self._inner[-1] += whole


@dataclass(frozen=True)
class Start:
    """A network that was given besides the original, for recipes to start from.

    Attributes
    ----------
    payload
        The live module, pickled, for children; None for models that come from files.
    """

    model: Model
    payload: np.ndarray | None


@dataclass
class Workspace:
    """One search's surroundings.

    Attributes
    ----------
    payload
        The live module, pickled, for children; None for models that come from files.
    others
        The further networks that recipes may start from, by name.
    roles
        ``calibrate``, ``search``, ``prove`` and perhaps ``train``.
    folder
        Scratch space of this search.
    tolerance
        In metric units: set once the original's own score on *search* is known.
    preprocess
        ``file.py:fn`` as given, for the bundle.
    train_seconds
        For all trained steps together; 0 where nothing is trained.
    train_rest
        Whether time that nothing else wants may go to training as well.
    share
        Seconds that one trained step may take: what the race makes of them.
    student
        ``file.py:fn`` of the user's own student, absolute.
    proof_set
        Digest of all of *prove*, before the budget cut it: what the ledger counts by.
    batch_is_free
        Whether the batch size is for the search to choose.
    """

    task: Task
    model: Model
    payload: np.ndarray | None
    roles: dict[str, Dataset]
    metric: Metric
    target: Target
    cache: Cache
    pool: Pool
    folder: Path
    clock: Clock
    emit: Callable[[Event], None]
    say: Callable[[str], None]
    others: Mapping[str, Start] = field(default_factory=dict)
    tolerance: float = 0.0
    preprocess: str | None = None
    train_seconds: float = 0.0
    train_rest: bool = False
    share: float = 0.0
    student: str | None = None
    proof_set: str = ""
    batch_is_free: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def alpha(self) -> float:
        return 1 - self.task.confidence

    def start_of(self, recipe: Recipe) -> tuple[Model, np.ndarray | None]:
        """The network that a recipe starts from, and its live module's pickle if it is one."""
        if not recipe.start:
            return self.model, self.payload
        start = self.others[recipe.start]
        return start.model, start.payload

    def call(self, role: str, job: str, *, timeout: float | None = None, **params: Any) -> Any:
        """Run ``strop.search.jobs:<job>`` in the child for `role`.

        Raises
        ------
        StropError
            Of the class that the job raised, when it raised one of strop's own.
        ChildError
            The child died, hung, ran out of memory, or the job raised anything else.
        """
        with rethrown():
            return self.pool.child(role).call(
                f"strop.search.jobs:{job}",
                timeout=timeout,
                on_event=lambda event: self.say(str(event.get("line", ""))),
                **params,
            )

    def payload_for(self, spec: SessionSpec) -> np.ndarray | None:
        """What a session needs besides its artefact: the live module, for eager PyTorch."""
        return self.payload if spec.engine == "torch" else None


@contextlib.contextmanager
def rethrown() -> Iterator[None]:
    """Give errors of strop's own that a child raised their class back."""
    try:
        yield
    except ChildFailed as failure:
        for name in (failure.error_type, *failure.error_bases):
            kind = getattr(errors, name, None)
            if isinstance(kind, type) and issubclass(kind, StropError) and kind is not StropError:
                if kind is errors.MissingExtra:
                    raise errors.InputError(failure.error_message) from failure
                raise kind(failure.error_message) from failure
        if failure.error_type == "OSError" and f"[Errno {ENOSPC}]" in failure.error_message:
            raise errors.InputError(
                failure.error_message,
                hint="make room in the folders for temporary files (TMPDIR) and for what is "
                "built (STROP_CACHE)",
            ) from failure
        raise


def reason_of(error: StropError) -> str:
    """One line for the table of what was tried and why it lost."""
    if isinstance(error, ChildTimeout) and error.seconds is not None:
        return f"took longer than the {error.seconds:.0f} s that it was given"
    text = error.error_message if isinstance(error, ChildFailed) else str(error)
    line = next((part.strip() for part in text.splitlines() if part.strip()), type(error).__name__)
    if isinstance(error, ChildFailed) and not isinstance(error, NotApplicable):
        line = f"{error.error_type}: {line}"
    return line if len(line) <= 240 else line[:237] + "…"
