"""Everything that a user can say to a search, before any of it has been looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from strop import plugins
from strop.amounts import parse_seconds
from strop.errors import InputError
from strop.records import Goal, Price
from strop.search.money import parse_price, parse_rate, parse_share, parse_watts
from strop.search.task import Tolerance, parse_tolerance

TRAIN_SHARE = 0.55
"""Share of the budget for training where none is named."""


@dataclass(frozen=True)
class Request:
    """One search as it is asked for; the command line's options and the API's arguments.

    Attributes
    ----------
    model
        Path of an ONNX file, ``file.py:callable`` (with `trust`), or an `nn.Module`; or a list of
        them, for one task: the first is the original, the others are further starting points.
    data, train, prove
        A path, ``file.py:fn`` (with `trust`), or a mapping of arrays by name. `data` is split into
        roles; `train` feeds training and calibration, `prove` is the proof set outright.
    train_budget
        Wall seconds of `budget` for training, or a text; None takes about half. 0 trains nothing.
    student
        ``file.py:fn`` (with `trust`) of a network to train under the model instead of smaller
        copies of it.
    within
        The tolerance: 0.01 or ``"1%"`` in metric units, ``"1%rel"`` of the original's score.
    output
        The folder to make.
    metric
        A metric's name or ``file.py:fn``; None chooses by the data.
    batch
        Examples a call. None means 1, but for the goals ``throughput`` and ``cost`` the size that
        gives the most examples a second within the limits.
    shapes
        Dimensions by input name, for models whose free dimensions the examples do not settle.
    threads
        Threads of one inference; None means that the search may choose, up to one a granted core.
    device
        ``cpu``, or what engines call another device: ``cuda``, ``gpu``, ``npu``, ``qnn`` …
    budget
        Wall seconds, or a text such as ``"10m"``.
    renames
        Array names by input name.
    engines, techniques
        Names to search over; None means all that apply.
    price, rate
        A machine's price (``"0.18/h"``), and the inferences a second that are required
        (``"200/s"``): what was found is also told in money.
    max_utilisation
        The share of its throughput that a machine is given at most, at `rate`.
    watts_per_core
        Watts of one busy logical CPU, for estimates of energy; None means by the processor.
    """

    model: Any
    data: Any
    within: str | float
    output: str | Path
    metric: str | None = None
    goal: Goal = "latency"
    max_memory_bytes: int | None = None
    max_p99_seconds: float | None = None
    batch: int | None = None
    shapes: Mapping[str, Sequence[int | str]] | None = None
    threads: int | None = None
    device: str = "cpu"
    train: Any = None
    prove: Any = None
    budget: str | float = "10m"
    train_budget: str | float | None = None
    student: str | None = None
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
    price: str | None = None
    rate: str | None = None
    max_utilisation: str | float = 1.0
    watts_per_core: str | float | None = None

    @property
    def models(self) -> list[Any]:
        """The networks that were given, the original first."""
        return list(self.model) if isinstance(self.model, list | tuple) else [self.model]

    @property
    def machine_price(self) -> Price | None:
        return None if self.price is None else parse_price(self.price)

    @property
    def required_rate(self) -> float | None:
        return None if self.rate is None else parse_rate(self.rate)

    @property
    def utilisation(self) -> float:
        return parse_share(self.max_utilisation)

    @property
    def watts(self) -> float | None:
        return None if self.watts_per_core is None else parse_watts(self.watts_per_core)

    @property
    def tolerance(self) -> Tolerance:
        return parse_tolerance(self.within)

    @property
    def budget_seconds(self) -> float:
        return parse_seconds(self.budget)

    @property
    def train_seconds(self) -> float:
        """Seconds of the budget for training; 0 without examples to train on."""
        if self.train is None or self.train_budget in (0, "0"):
            return 0.0
        if self.train_budget is None:
            return TRAIN_SHARE * self.budget_seconds
        return parse_seconds(self.train_budget)

    @property
    def train_rest(self) -> bool:
        """Whether time that nothing else wants may go to training: not where its part was named."""
        return self.train_seconds > 0 and self.train_budget is None

    @property
    def folder(self) -> Path:
        return Path(self.output).absolute()

    def check(self) -> None:
        """Refuse what no model and no data could make right; InputError says what and how."""
        if not self.models:
            raise InputError("there is no model", hint="name a model.onnx or file.py:callable")
        self.tolerance.absolute(1.0)
        if self.budget_seconds < 1:
            raise InputError(f"a budget of {self.budget} is too short", hint="write --budget 10m")
        if self.train_seconds >= self.budget_seconds:
            raise InputError(
                f"training may take {self.train_budget}, which is all of the budget "
                f"({self.budget})",
                hint="proving and timing need a part: give a larger --budget",
            )
        if self.train is None and (self.student or self.train_budget):
            given = "a student" if self.student else "a training budget"
            raise InputError(f"there is {given} but nothing to train on", hint="add --train DATA")
        if not 0.5 <= self.confidence < 1:
            raise InputError(
                f"the confidence {self.confidence} is not at least 0.5 and below 1",
                hint="write --confidence 95%",
            )
        for name in ("batch", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: it must be at least 1")
        if self.seed < 0:
            raise InputError(f"the seed is {self.seed}: it must be at least 0")
        self._check_kinds()
        goals = get_args(Goal)
        if self.goal not in goals:
            raise InputError(f"there is no goal '{self.goal}'", hint=f"known: {', '.join(goals)}")
        self._check_names()
        self._check_money()

    def _check_kinds(self) -> None:
        # Of what Python takes from anybody, and the command line from nobody.
        for name in ("data", "train", "prove"):
            given = getattr(self, name)
            fine = isinstance(given, str | Path) or hasattr(given, "items")
            if not fine and (name == "data" or given is not None):
                raise InputError(
                    f"{name} is a {type(given).__name__}: expected a path or a dict of arrays",
                    hint='give {"image": images, "target": labels}, or the path of a file',
                )
        if self.metric is not None and not isinstance(self.metric, str):
            raise InputError(
                f"the metric is a {type(self.metric).__name__}: it runs in processes of its own",
                hint="write it into a file, and give metric='file.py:fn' with trust=True",
            )
        for name in ("engines", "techniques"):
            if isinstance(given := getattr(self, name), str):
                raise InputError(f"{name}='{given}' is text", hint=f"give a list: ['{given}']")

    def _check_names(self) -> None:
        # Not by loading them: a plug-in that is broken is left out of a search, not an error.
        for group, given in (("engines", self.engines), ("techniques", self.techniques)):
            known = plugins.names(group)
            unknown = next((name for name in given or () if name not in known), None)
            if unknown is not None:
                raise InputError(
                    f"there is no {group[:-1]} called '{unknown}'",
                    hint=f"known: {', '.join(known)}",
                )

    def _check_money(self) -> None:
        # Each of them is read, whether the others are given or not.
        price, rate, share, _ = (
            self.machine_price,
            self.required_rate,
            self.utilisation,
            self.watts,
        )
        if price is None and self.goal == "cost":
            raise InputError("the goal cost needs a price", hint="add --price 0.18/h")
        if price is None and rate is not None:
            raise InputError("there is a rate but no price", hint="add --price 0.18/h")
        if rate is None and share != 1:
            raise InputError("there is a utilisation but no rate", hint="add --rate 200/s")


def text_of(given: Any) -> str:
    """What was given, as text for people: file names without folders, types for live objects."""
    if isinstance(given, str | Path):
        path, _, rest = str(given).partition(":")
        return Path(path).name + (f":{rest}" if rest else "")
    if isinstance(given, Mapping):
        return "arrays " + ", ".join(map(str, given))
    return type(given).__name__
