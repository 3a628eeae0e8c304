"""Everything that a user can say to a search, before any of it has been looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strop.errors import InputError
from strop.records import Goal
from strop.search.task import Tolerance, parse_seconds, parse_tolerance


@dataclass(frozen=True)
class Request:
    """One search as it is asked for; the command line's options and the API's arguments.

    Attributes
    ----------
    model
        Path of an ONNX file, ``file.py:callable`` (with `trust`), or an `nn.Module`.
    data, train, prove
        A path, ``file.py:fn`` (with `trust`), or a mapping of arrays by name. `data` is split into
        roles; `train` feeds calibration, `prove` is the proof set outright.
    within
        The tolerance: 0.01 or ``"1%"`` in metric units, ``"1%rel"`` of the original's score.
    output
        The folder to make.
    metric
        A metric's name or ``file.py:fn``; None chooses by the data.
    shapes
        Dimensions by input name, for models whose free dimensions the examples do not settle.
    threads
        Threads of one inference; None means one a granted core.
    budget
        Wall seconds, or a text such as ``"10m"``.
    renames
        Array names by input name.
    engines, techniques
        Names to search over; None means all that apply.
    """

    model: Any
    data: Any
    within: str | float
    output: str | Path
    metric: str | None = None
    goal: Goal = "latency"
    max_memory_bytes: int | None = None
    max_p99_seconds: float | None = None
    batch: int = 1
    shapes: Mapping[str, Sequence[int | str]] | None = None
    threads: int | None = None
    train: Any = None
    prove: Any = None
    budget: str | float = "10m"
    confidence: float = 0.95
    seed: int = 0
    reader: str | None = None
    preprocess: str | None = None
    renames: Mapping[str, str] | None = None
    output_names: Sequence[str] | None = None
    engines: Sequence[str] | None = None
    techniques: Sequence[str] | None = None
    strategy: str = "evidence"
    resume: bool = False
    trust: bool = False

    @property
    def tolerance(self) -> Tolerance:
        return parse_tolerance(self.within)

    @property
    def budget_seconds(self) -> float:
        return parse_seconds(self.budget)

    @property
    def folder(self) -> Path:
        return Path(self.output).absolute()

    def check(self) -> None:
        """Refuse what no model and no data could make right; InputError says what and how."""
        self.tolerance.absolute(1.0)
        if self.budget_seconds < 1:
            raise InputError(f"a budget of {self.budget} is too short", hint="write --budget 10m")
        if not 0.5 <= self.confidence < 1:
            raise InputError(
                f"the confidence {self.confidence} is not at least 0.5 and below 1",
                hint="write --confidence 95%",
            )
        for name in ("batch", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: it must be at least 1")
        goals = ("latency", "throughput", "memory", "size")
        if self.goal not in goals:
            raise InputError(f"there is no goal '{self.goal}'", hint=f"known: {', '.join(goals)}")


def text_of(given: Any) -> str:
    """What was given, as text for people: file names without folders, types for live objects."""
    if isinstance(given, str | Path):
        path, _, rest = str(given).partition(":")
        return Path(path).name + (f":{rest}" if rest else "")
    if isinstance(given, Mapping):
        return "arrays " + ", ".join(map(str, given))
    return type(given).__name__
