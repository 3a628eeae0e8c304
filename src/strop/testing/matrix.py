"""Every engine on every given model: whether it gives the model's own answers, or why it does not.

The suites beside this file check an engine on small networks with known answers. This runs whole
models, each pair in a child of its own engine, with the engine's default options, and compares the
outputs with the model's native runtime: eager PyTorch for modules, ONNX Runtime with the safest
graph rewrites for ONNX files. Needs no pytest.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from strop import engines as registry
from strop.errors import InputError, StropError
from strop.measure import describe
from strop.models import is_model_folder
from strop.records import Machine, Record, Target
from strop.workers import Child, ChildError

BOUND = 1e-3
"""Largest relative error of a row of outputs that is still parity, as in a claim of equivalence."""
SUFFIXES = (".onnx", ".tflite", ".keras", ".pt2")
"""Files that are taken for models in a folder."""
_DATA = "data.npz"
_NOTHING = "the model gives all inputs the same answers: there is nothing to compare"
_MEMORY_SHARE = 0.8

Outcome = Literal["parity", "runs", "differs", "refused", "failed", "absent"]


class Cell(Record):
    """One engine on one model.

    Attributes
    ----------
    outcome
        ``parity``; ``runs`` (the model answers all inputs alike: there is nothing to compare);
        ``differs`` (it runs, and lies beyond the bound); ``refused`` (it says that it cannot, and
        why); ``failed`` (it broke without a word of its own: a crash, a time-out); ``absent`` (not
        installed).
    error
        The largest relative error of any row of any output; null where nothing ran, infinite
        where shapes or exact outputs differ.
    reason
        Of anything but parity.
    seconds
        That importing, building and one call took; no benchmark.
    """

    engine: str
    outcome: Outcome
    error: float | None = None
    reason: str = ""
    seconds: float = 0.0


class Row(Record):
    """One model on all engines.

    Attributes
    ----------
    reference
        What the outputs are compared with; empty where the model could not be read.
    examples
        Where the inputs come from: ``data.npz`` beside the model, or ``random``.
    alike
        Whether the model gives other inputs the same answers, as one does whose weights are all
        one constant. Its numbers are then no test: a softmax over equal logits turns the last bit
        of one into another class.
    reason
        Why the model could not be read; `cells` is empty then.
    """

    model: str
    reference: str = ""
    examples: str = ""
    alike: bool = False
    reason: str = ""
    cells: tuple[Cell, ...] = ()


class Matrix(Record):
    """What `strop conformance` prints.

    Attributes
    ----------
    engines
        Names in the order of the cells.
    bound
        Largest relative error that counts as parity.
    """

    schema_version: int = Field(default=1, alias="schema")
    engines: tuple[str, ...]
    rows: tuple[Row, ...]
    bound: float
    examples: int
    machine: Machine

    @property
    def holds(self) -> bool:
        """Whether every pair gives parity or a reason of the engine's own."""
        return not any(
            row.reason or any(cell.outcome in ("differs", "failed") for cell in row.cells)
            for row in self.rows
        )


def matrix(
    given: Sequence[str | Path],
    *,
    engines: Sequence[str] | None = None,
    examples: int = 4,
    timeout: float = 300.0,
    trust: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Matrix:
    """Run every engine on every model.

    Parameters
    ----------
    given
        Models as :func:`strop.optimize` takes them, or folders, in which every model file counts.
        ``data.npz`` beside a model gives its inputs; random values do otherwise.
    engines
        Names; None means all that are registered, installed or not.
    examples
        Rows of a call, unless the model has a fixed batch.
    timeout
        Seconds that one pair may take.
    trust
        Whether Python code that the models name may run.

    Raises
    ------
    InputError
        When there is no model, or an engine of a name is unknown.
    """
    if examples < 1 or not timeout > 0:
        raise InputError("examples and the time-out must be at least 1")
    found = find(given)
    names = tuple(engines or registry.names())
    for name in names:
        registry.get(name)
    machine = describe()
    target = Target(machine=machine, batch=examples, threads=1)
    rows = []
    with tempfile.TemporaryDirectory(prefix="strop-conformance-") as scratch:
        for number, (title, source) in enumerate(found):
            folder = Path(scratch) / str(number)
            folder.mkdir()
            say(f"{title}: its own runtime")
            row = _reference(title, source, folder, examples, timeout, trust, machine)
            cells = []
            for name in names if not row.reason else ():
                say(f"{title}: {name}")
                cell = _cell(name, folder, target, timeout, trust, machine)
                if row.alike and cell.outcome in ("parity", "differs"):
                    cell = cell.model_copy(update={"outcome": "runs", "reason": _NOTHING})
                cells.append(cell)
            rows.append(row.model_copy(update={"cells": tuple(cells)}))
    return Matrix(engines=names, rows=tuple(rows), bound=BOUND, examples=examples, machine=machine)


def find(given: Sequence[str | Path]) -> list[tuple[str, str]]:
    """The models that are named, or lie in named folders, with titles that tell them apart.

    A folder that is a model itself (a SavedModel, one of transformers') counts as that alone.

    Raises
    ------
    InputError
        When something is not there, or a folder holds no model.
    """
    found: list[tuple[str, str]] = []
    for one in given:
        text = str(one)
        path = Path(text).expanduser()
        if ".py:" in text or path.is_file() or is_model_folder(path):
            found.append((_title(text), text))
            continue
        if not path.is_dir():
            raise InputError(f"there is no model '{one}'", hint="name a model or a folder")
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        if not files:
            raise InputError(
                f"the folder '{one}' holds no model",
                hint=f"files that end in {', '.join(SUFFIXES)} count",
            )
        found += [(_title(str(file)), str(file)) for file in files]
    if not found:
        raise InputError("no model was given", hint="name a model or a folder of them")
    return found


def _title(text: str) -> str:
    """A model's own name; where it is only called ``model``, the name of its folder with it."""
    path, _, function = text.partition(".py:")
    name = Path(path).expanduser().absolute()
    if function:
        return f"{name.parent.name}/{name.name}.py:{function}"
    if name.is_dir():
        return name.name
    return name.parent.name if name.stem == "model" else name.stem


def _reference(
    title: str,
    source: str,
    folder: Path,
    examples: int,
    timeout: float,
    trust: bool,
    machine: Machine,
) -> Row:
    """The model read, and its own answers written into the folder."""
    beside = Path(source.partition(".py:")[0]).expanduser().parent / _DATA
    try:
        told: Any = _call(
            "reference",
            "reference",
            machine,
            timeout,
            source=source,
            folder=str(folder),
            data=str(beside) if beside.is_file() else None,
            examples=examples,
            trust=trust,
        )
    except StropError as error:
        return Row(model=title, reason=_clean(error.message, folder))
    if "reason" in told:
        return Row(model=title, reason=_clean(str(told["reason"]), folder))
    return Row(
        model=title,
        reference=told["reference"],
        examples=told["examples"],
        alike=told["alike"],
    )


def _cell(
    name: str, folder: Path, target: Target, timeout: float, trust: bool, machine: Machine
) -> Cell:
    installed = registry.get(name).available()
    if not installed:
        return Cell(engine=name, outcome="absent", reason=installed.reason)
    try:
        told: Any = _call(
            name,
            "check",
            machine,
            timeout,
            engine=name,
            folder=str(folder),
            target=target.to_dict(),
            bound=BOUND,
            trust=trust,
        )
    except ChildError as error:
        return Cell(engine=name, outcome="failed", reason=_clean(error.message, folder))
    return Cell(
        engine=name,
        outcome=told["outcome"],
        error=told["error"],
        reason=_clean(told["reason"], folder),
        seconds=told["seconds"],
    )


def _call(who: str, job: str, machine: Machine, timeout: float, **params: Any) -> Any:
    with Child(
        name=f"conformance of {who}",
        env={"OMP_NUM_THREADS": "1"},
        memory_limit=int(machine.memory_bytes * _MEMORY_SHARE),
    ) as child:
        return child.call(f"strop.testing.matrix_jobs:{job}", timeout=timeout, **params)


def _clean(text: str, folder: Path) -> str:
    """One line without the place of the scratch folder."""
    return " ".join(text.replace(f"{folder}/", "").replace(str(folder), "").split())
