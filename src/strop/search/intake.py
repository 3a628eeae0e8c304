"""From what was given to what a search works on: a model, examples by role, a metric."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from strop import data as datasets
from strop import engines, metrics
from strop.data import Dataset
from strop.errors import InputError, MissingExtra, StropError, TrustError
from strop.metrics import Metric
from strop.models import module_files, saved_model
from strop.models.estimator_importer import is_estimator
from strop.models.model import Model, ModuleSource
from strop.models.user_code import is_user_code
from strop.proof import ledger_alpha, max_disagreement
from strop.records import Placement, ScoreKind, SessionSpec, Signature, Target
from strop.search.request import Request
from strop.search.space import original_recipe
from strop.search.task import Tolerance
from strop.search.workspace import rethrown
from strop.workers import Pool

_EXAMPLE_FILES = (".npz", ".npy", ".csv", ".tsv", ".parquet", ".pq", ".arrow", ".feather")
_UNLABELLED = -100
"""As training takes it (`strop.training.losses.IGNORED`, which would bring torch along)."""
_EXAMPLES = 8
"""Examples that an export is traced with and checked on."""
_BUSY = 1.5
"""Load a CPU from which on other work is running for sure: strop's own is 1 at most."""
_ESTIMATED = 256
"""Examples that the graph of an estimator is held against the estimator on."""


def import_model(request: Request, pool: Pool, folder: Path) -> tuple[Model, np.ndarray | None]:
    """The model, imported in a child, and the live module's pickle if it is one.

    Raises
    ------
    InputError
        When the model cannot be read; the text says why and what would help.
    """
    given = request.model
    source: str | None = None
    payload: np.ndarray | None = None
    if isinstance(given, str | Path):
        source = str(given)
        _refuse_what_is_no_model(Path(source))
    else:
        payload = pickled(given)
    examples = None
    if source is None or is_user_code(source) or module_files.format_of(Path(source)):
        # Tracing needs examples before there is a signature to check them against.
        examples = datasets.peek(
            request.data,
            _ESTIMATED if is_estimator(given) else _EXAMPLES,
            reader=request.reader,
            preprocess=request.preprocess,
            trust=request.trust,
            renames=request.renames,
        )
    target = folder / "model"
    target.mkdir()
    with rethrown():
        path = pool.child("build").call(
            "strop.search.jobs:import_model",
            source=source,
            payload=payload,
            workdir=str(target),
            examples=examples,
            trust=request.trust,
            output_names=None if request.output_names is None else list(request.output_names),
            shapes=None
            if request.shapes is None
            else {name: list(dims) for name, dims in request.shapes.items()},
        )
    model = Model.open(Path(path))
    if "module" not in model.forms:
        payload = None  # an estimator: its graph is all that is left of it
    if payload is not None:
        model = model.with_source(ModuleSource(payload=payload.tobytes()))
    return model, payload


def _refuse_what_is_no_model(given: Path) -> None:
    """Tell what to name instead of examples, or of a folder that holds no model of strop's own."""
    if given.suffix.lower() in _EXAMPLE_FILES:
        raise InputError(
            f"'{given}' holds examples, not a model", hint="name the model first, then --data"
        )
    if not given.is_dir() or (given / "model.json").is_file():
        return
    if module_files.format_of(given) or (given / saved_model.MARK).is_file():
        return
    hint = "name a model.onnx or file.py:callable"
    pickles = sorted(path.name for path in given.glob("*.bin"))
    if pickles:
        hint = f"{pickles[0]} is a pickle, which strop does not open; {hint}"
    for bundle in (given, given / "bundle"):
        if (bundle / "manifest.json").is_file():
            hint += f"; the bundle '{bundle}' can be compared, verified, profiled and served"
            break
    raise InputError(f"'{given}' is a folder, not a model", hint=hint)


def read_roles(
    request: Request, signature: Signature, folder: Path
) -> tuple[dict[str, Dataset], Dataset, list[str]]:
    """Examples by role, all of them, and what the user should know about them."""

    def read(given: Any, name: str) -> Dataset:
        dataset = datasets.read(
            given,
            signature,
            reader=request.reader,
            preprocess=request.preprocess,
            trust=request.trust,
            renames=request.renames,
        )
        warnings.extend(f"{name}: {line}" for line in datasets.check(dataset, signature))
        if not dataset.stored:
            # Children open examples by path: what has none of its own is written to scratch once.
            dataset = dataset.save_npz(folder / f"{name}.npz")
        return dataset

    warnings: list[str] = []
    dataset = read(request.data, "data")
    train = None if request.train is None else read(request.train, "train")
    prove = None if request.prove is None else read(request.prove, "prove")
    roles = datasets.split(dataset, train=train, prove=prove)
    # That repeats count once was told as the examples were read.
    warnings.extend(line for line in roles.warnings if "repeat" not in line)
    # A candidate is screened on the first rows of *search*, and timed on some of them: shuffled,
    # they are a fair sample even where the file is sorted by class.
    search = roles["search"]
    roles["search"] = search.subset(np.random.default_rng(request.seed).permutation(len(search)))
    for role in ("search", "prove"):
        if not len(roles[role]):
            repeated = next((line for line in roles.warnings if "repeat" in line), None)
            raise InputError(
                f"the examples leave none for '{role}'" + (f": {repeated}" if repeated else ""),
                hint="give more of them, each another: a few hundred are the least that can "
                "prove anything",
            )
    return roles, dataset, warnings


def add_student(
    request: Request,
    model: Model,
    payload: np.ndarray | None,
    roles: dict[str, Dataset],
    pool: Pool,
) -> tuple[Model, str | None]:
    """The model with the user's student named in its facts, and the student's absolute spec.

    Raises
    ------
    InputError
        When there is no such network, or it does not take and give what the model does.
    """
    if request.student is None:
        return model, None
    if not request.trust:
        raise TrustError(
            f"'{request.student}' is Python code, which strop runs only when you say so",
            hint="read it, then pass --trust (in Python: trust=True)",
        )
    if "module" not in model.forms:
        raise InputError(
            "a student of its own needs a PyTorch module to learn from",
            hint="give the model as file.py:callable, or leave --student out",
        )
    file, _, name = request.student.rpartition(":")
    spec = f"{Path(file).expanduser().resolve()}:{name}"
    with rethrown():
        pool.child("build").call(
            "strop.search.jobs:check_student",
            model=str(model.path),
            payload=payload,
            student=spec,
            inputs=roles["train"].inputs(np.arange(min(2, len(roles["train"])))),
        )
    # The file's digest is in the name, and so in the key of what is trained.
    digest = hashlib.sha256(Path(spec.rpartition(":")[0]).read_bytes()).hexdigest()
    called = f"{Path(file).name}:{name}#{digest[:8]}"
    return dataclasses.replace(model, meta={**model.meta, "student": called}), spec


def choose_metric(
    request: Request,
    model: Model,
    payload: np.ndarray | None,
    roles: dict[str, Dataset],
    pool: Pool,
    target: Target,
) -> tuple[Metric, list[str]]:
    """The metric by name, by file, or by what the data and the original's outputs look like.

    Beside it: what the user should know about one that nobody named.
    """
    dataset = roles["search"]
    rows = np.arange(min(_EXAMPLES, len(dataset)))
    with rethrown():
        outputs = pool.child("evaluate").call(
            "strop.search.jobs:first_outputs",
            spec=original_spec(model, target).to_dict(),
            payload=payload if "module" in model.forms else None,
            dataset=dataset.describe(),
            rows=rows,
        )
    found = metrics.resolve(
        request.metric,
        outputs=outputs,
        has_target=dataset.has_target,
        targets=dataset.targets(rows),
        trust=request.trust,
    )
    for role in ("search", "prove"):  # the last of them is scored when all the rest is done
        if (targets := roles[role].targets()) is not None:
            found.check_targets(outputs, targets)
    if request.train_seconds and "train" in roles:
        _check_training_labels(found, outputs, roles["train"].targets())
    if request.metric is None:
        note = metrics.caveat(found, outputs)
    else:
        note = _rescaled(found, request.tolerance)
    return found, [note] if note else []


def import_notes(model: Model) -> list[str]:
    """What the user should know of how the model was taken in."""
    notes = []
    if model.meta.get("was_training"):
        notes.append("the module was in training mode: strop takes it in evaluation mode")
    if error := model.meta.get("export_error"):
        notes.append(
            f"the module cannot be exported to ONNX: {error}; what is left are the engines that "
            "run PyTorch"
        )
    return notes


def _check_training_labels(
    metric: Metric, outputs: Mapping[str, np.ndarray], targets: np.ndarray | None
) -> None:
    """Refuse labels of no class now: every step that trains would fail by them, after minutes."""
    if targets is None or targets.dtype.kind not in "iu":
        return
    try:
        metric.check_targets(outputs, np.where(targets == _UNLABELLED, 0, targets))
    except StropError as error:
        hint = f"{error.hint}; {_UNLABELLED} says that an example has none"
        raise InputError(f"train: {error.message}", hint=hint) from error


def _rescaled(metric: Metric, tolerance: Tolerance) -> str:
    """What a tolerance means of a metric whose own range is not [0, 1]; empty where it is."""
    given = getattr(metric, "range", None)
    if given is None or given == (0.0, 1.0):
        return ""
    low, high = given
    told = f"{metric.name} is rescaled from [{low:g}, {high:g}] to [0, 1], and shown so"
    if tolerance.relative:
        return f"{told}; --within is relative to the rescaled score"
    own = tolerance.value * (high - low)
    return f"{told}: --within {tolerance.value:g} allows a loss of {own:.4g} in its own units"


def original_spec(model: Model, target: Target) -> SessionSpec:
    """The original as it was given, in its native runtime: the reference of every comparison."""
    recipe = original_recipe(model, target)
    form = engines.get(recipe.deploy.engine).consumes[0]
    return SessionSpec(
        engine=recipe.deploy.engine,
        artifact=str(model.forms[form]),
        signature=model.signature,
        options=recipe.deploy.options,
        placement=Placement(device=recipe.deploy.device, threads=target.thread_count),
    )


def check_device(model: Model, target: Target) -> None:
    """Refuse a device that no engine runs the model on, before anything is measured elsewhere.

    Raises
    ------
    InputError
        The hint has the reason of each engine.
    """
    if target.device == "cpu":
        return
    reasons = []
    for name in engines.names():
        try:
            engine = engines.get(name)
        except StropError:  # a broken plug-in is told of when the space is made
            continue
        verdict = engine.available() and engine.applies(model, target)
        if verdict:
            return
        reasons.append(f"{name}: {verdict.reason}")
    raise InputError(
        f"no engine here runs the model on the device '{target.device}'", hint="; ".join(reasons)
    )


def busy_notes() -> list[str]:
    """What the user should know where other work fills the machine; empty where none does.

    All CPUs are counted, not only those granted: in a container the load is the host's.
    """
    load, cpus = os.getloadavg()[0], os.cpu_count() or 1
    if load <= _BUSY * cpus:
        return []
    return [
        f"the load is {load:.1f} on {cpus} CPUs: other work spoils timings and leaves time for few "
        "trials; wait for it to end"
    ]


def power_note(n: int, tolerance: float, alpha: float, kind: ScoreKind) -> tuple[str, bool]:
    """What `n` examples can prove, in words, and whether they can prove anything."""
    points = f"{tolerance:.3%}".rstrip("0%").rstrip(".") + "%"
    if kind not in ("binary", "agreement"):
        return f"{n:,} unseen examples will judge the claim of {points}", n >= 1 / tolerance
    # The first run on a proof set has this share of the error; later ones have less.
    largest = max_disagreement(n, tolerance, ledger_alpha(alpha, 1), kind=kind)
    if largest is None:
        least = math.ceil(math.log(1 / ledger_alpha(alpha, 1)) / tolerance)
        return (
            f"{n:,} unseen examples are too few to prove a loss below {points}, which takes some "
            f"{least:,} at the least: only candidates whose outputs stay the same are tried",
            False,
        )
    return (
        f"{n:,} unseen examples can prove a loss below {points} "
        f"if at most {largest:.2%} of answers change",
        True,
    )


def pickled(given: Any) -> np.ndarray:
    """A live module or estimator for the way through a pipe to a child: uint8[n].

    Raises
    ------
    InputError
        When it is neither, or what pickles it is not installed.
    """
    estimator = is_estimator(given)
    if not estimator and not callable(getattr(given, "state_dict", None)):
        raise InputError(
            f"the model is a {type(given).__name__}: expected a path, an nn.Module or an estimator",
            hint="pass the path of an ONNX file, 'file.py:callable', a module or an estimator",
        )
    try:
        import cloudpickle
    except ImportError as error:
        raise MissingExtra("cloudpickle", extra="sklearn" if estimator else "torch") from error
    return np.frombuffer(cloudpickle.dumps(given), dtype=np.uint8)
