"""The contract of a technique: turn a model into another model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from strop.data import Dataset
from strop.models.model import Model
from strop.records import Applicability, Space, Step, Target


@dataclass(frozen=True)
class Context:
    """What a technique may use besides the model.

    Attributes
    ----------
    workdir
        An empty directory for the new model; scratch files go below ``workdir / "scratch"``,
        which is removed afterwards.
    target
        The machine and the goal.
    data
        Datasets by role; only the roles that the technique declared.
    teacher
        The original model, as the user gave it, for techniques that declare the role ``train``:
        `model` may have been changed by earlier steps. None for all others.
    keep
        A directory that outlives a kill, for checkpoints of long work: the next attempt at the
        same step finds it as it was left. None where nothing is kept.
    seconds
        For techniques that train: how long training may take. None without a limit.
    metric
        Name of the metric that judges the result; empty where it is not known.
    student
        ``file.py:callable`` of a network of the user's own to train instead, if there is one.
    seed
        Seed of everything random: equal seeds give equal models.
    deadline
        `time.monotonic` value after which the work is worthless; None without a limit.
    emit
        Takes a short line for the progress view.
    """

    workdir: Path
    target: Target
    data: Mapping[str, Dataset] = field(default_factory=dict)
    seed: int = 0
    deadline: float | None = None
    emit: Callable[[str], None] = lambda line: None
    teacher: Model | None = None
    keep: Path | None = None
    seconds: float | None = None
    metric: str = ""
    student: str | None = None


class Technique(ABC):
    """Turns a model into another model, deterministically under ``ctx.seed``."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised whenever the same parameters give another result; part of the cache key."""
    consumes: ClassVar[str]
    """The form that `apply` reads."""
    produces: ClassVar[tuple[str, ...]]
    """The forms that `apply` writes, all of them every time."""
    roles: ClassVar[tuple[str, ...]] = ()
    """Roles of the data that `apply` reads (``calibrate``, ``train``)."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions decide the result; part of the cache key."""
    exact: ClassVar[bool] = False
    """Whether the numbers stay the same up to rounding, so that equivalence may be claimed."""
    batch_invariant: ClassVar[bool] = True
    """Whether an example's outputs are the same whatever else is in its batch."""
    stage: ClassVar[int] = 50
    """Where it stands in a recipe: steps are ordered by stage, one step a stage."""
    prepares: ClassVar[bool] = False
    """Whether it only makes a form for a later technique, and is worth nothing without one."""
    family: ClassVar[str] = ""
    """A recipe takes one technique of a family at most, whatever their stages: two that both
    quantise to INT8, say. Empty: of no family."""

    @abstractmethod
    def applies(self, model: Model, target: Target) -> Applicability:
        """Whether it can do anything for this model, or why not (shown to users)."""

    @abstractmethod
    def space(self, model: Model, target: Target) -> Space:
        """Parameters and the values worth trying, the best default first."""

    def follows(self, earlier: Sequence[Step], params: Mapping[str, Any]) -> bool:
        """Whether a step with `params` makes sense after the `earlier` steps of a recipe.

        Recipes for which it does not are never proposed. By default all do.
        """
        return True

    def further(self, earlier: Sequence[Step], seconds: float) -> Mapping[str, Any] | None:
        """Parameters with which it trains what the `earlier` steps left for some `seconds` more.

        Asked where a search has time left and nothing else to try. They hold `seconds` under that
        name; the step is built like any other. None, as by default, where it cannot.
        """
        return None

    def deploys(self, engine: str, options: Mapping[str, Any]) -> bool:
        """Whether its result is worth running on an engine with these options. By default so."""
        return True

    @abstractmethod
    def apply(self, model: Model, params: Mapping[str, Any], ctx: Context) -> Model:
        """Write the new model into ``ctx.workdir`` and return it sealed.

        Raises
        ------
        NotApplicable
            When it turns out that it cannot be done; the message is shown to users.
        """
