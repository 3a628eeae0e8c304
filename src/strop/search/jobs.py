"""What runs in children: importing, techniques, builds and evaluations.

Every function takes and returns plain data and arrays; models and artefacts travel by path.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from strop import data as datasets
from strop import engines, metrics, models, techniques
from strop.data import Dataset
from strop.errors import InputError
from strop.models.model import Model, ModuleSource
from strop.records import SessionSpec, Target
from strop.techniques import Context

Emit = Callable[[dict[str, Any]], None]


def import_model(
    source: str | None,
    payload: np.ndarray | None,
    workdir: str,
    examples: dict[str, np.ndarray] | None,
    trust: bool,
    output_names: list[str] | None,
    shapes: dict[str, list[int | str]] | None,
) -> str:
    """Import a model into `workdir`; the path of the model's directory."""
    given: Any = source
    if payload is not None:
        import cloudpickle

        given = cloudpickle.loads(payload.tobytes())
    model = models.load(
        given,
        workdir=Path(workdir),
        examples=examples,
        trust=trust,
        output_names=output_names,
        shapes=shapes,
    )
    return str(model.path)


def apply_technique(
    technique: str,
    params: dict[str, Any],
    model: str,
    payload: np.ndarray | None,
    workdir: str,
    roles: dict[str, dict[str, Any]],
    target: dict[str, Any],
    seed: int,
    seconds: float | None,
    emit: Emit,
    training: dict[str, Any] | None = None,
    teacher_payload: np.ndarray | None = None,
) -> str:
    """Apply one technique; the new model's directory.

    `training` is for techniques that train: the teacher's directory, the folder to keep
    checkpoints in, seconds, the metric's name and the user's own student. The teacher is the
    original, whatever network the recipe starts from.
    """
    folder = Path(workdir)
    source = _live(payload)
    more: dict[str, Any] = {}
    if training is not None:
        more = {
            "teacher": Model.open(Path(training["teacher"]), source=_live(teacher_payload)),
            "keep": Path(training["keep"]),
            **{name: training[name] for name in ("seconds", "metric", "student")},
        }
    context = Context(
        workdir=folder,
        target=Target.from_dict(target),
        data={role: datasets.reopen(described) for role, described in roles.items()},
        seed=seed,
        deadline=None if seconds is None else time.monotonic() + seconds,
        emit=lambda line: emit({"line": line}),
        **more,
    )
    result = techniques.get(technique).apply(
        Model.open(Path(model), source=source), params, context
    )
    shutil.rmtree(folder / "scratch", ignore_errors=True)
    return str(result.path)


def check_student(
    model: str, payload: np.ndarray | None, student: str, inputs: dict[str, np.ndarray]
) -> None:
    """InputError unless the user's student takes and gives what the model's module does."""
    import torch

    from strop.models import module_form
    from strop.models.module_export import as_tensors

    form, teacher = module_form.open_module(Model.open(Path(model), source=_live(payload)))
    given = as_tensors(inputs, form.inputs)
    network = module_form.build(student).eval()
    try:
        with torch.no_grad():
            found = form.run(network, given)
    except Exception as error:  # the user's forward raises anything
        raise InputError(
            f"the student does not take the model's inputs: {module_form.describe_error(error)}",
            hint=f"its forward takes ({', '.join(form.inputs)}), as the model's does",
        ) from error
    with torch.no_grad():
        wanted = form.run(teacher, given)
    for name, value in wanted.items():
        if found[name].shape != value.shape:
            raise InputError(
                f"the student's output '{name}' is {list(found[name].shape)}, the model's "
                f"{list(value.shape)}"
            )


def build(engine: str, model: str, options: dict[str, Any], workdir: str) -> str:
    """Build an artefact; its main file, relative to `workdir`."""
    folder = Path(workdir)
    artifact = engines.get(engine).build(Model.open(Path(model)), options, folder)
    return artifact.resolve().relative_to(folder.resolve()).as_posix()


def write_reference(
    spec: dict[str, Any],
    payload: np.ndarray | None,
    dataset: dict[str, Any],
    batch: int,
    metric: dict[str, Any],
    folder: str,
) -> dict[str, Any]:
    """Run the original over a dataset; write its outputs as one ``.npy`` an output.

    Returns the names of the outputs and the original's scores an example, or, for a set-level
    metric, its value.
    """
    examples = datasets.reopen(dataset)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    files: dict[str, np.memmap[Any, Any]] = {}
    scores: list[np.ndarray] = []
    scorer = metrics.reopen(metric)
    for rows, outputs in _outputs(spec, payload, examples, batch):
        for index, (name, values) in enumerate(outputs.items()):
            if name not in files:
                shape = (len(examples), *values.shape[1:])
                files[name] = _mapped(target / f"{index}.npy", values.dtype, shape)
            files[name][rows] = values
        if scorer.kind != "set":
            scores.append(scorer.scores(outputs, examples.targets(rows), outputs))
    for file in files.values():
        file.flush()
    value = None
    if scorer.kind == "set":
        value = float(scorer.value(files, examples.targets(np.arange(len(examples))), files))
    return {
        "names": list(files),
        "scores": np.concatenate(scores) if scores else None,
        "value": value,
    }


def first_outputs(
    spec: dict[str, Any],
    payload: np.ndarray | None,
    dataset: dict[str, Any],
    rows: np.ndarray,
) -> dict[str, np.ndarray]:
    """The original's outputs on a few examples."""
    examples = datasets.reopen(dataset).subset(rows)
    return _joined([outputs for _, outputs in _outputs(spec, payload, examples, len(rows))])


def pace(
    spec: dict[str, Any],
    payload: np.ndarray | None,
    dataset: dict[str, Any],
    rows: np.ndarray,
    batch: int,
) -> float:
    """Seconds that the original takes for a few examples, the second time over."""
    examples = datasets.reopen(dataset).subset(rows)
    seconds = 0.0
    with _opened(spec, payload) as session:
        for _ in range(2):
            start = time.monotonic()
            for _ in _run(session, examples, batch):
                pass
            seconds = time.monotonic() - start
    return seconds


def evaluate(
    spec: dict[str, Any],
    payload: np.ndarray | None,
    dataset: dict[str, Any],
    batch: int,
    metric: dict[str, Any],
    reference: str,
    reference_names: list[str],
    limit: int | None,
    keep: str | None = None,
) -> dict[str, np.ndarray]:
    """Score a candidate beside the original's stored outputs.

    Returns, per example: ``scores``, ``errors`` (the worst output's relative error) and
    ``changed`` (whether any decision changed). Set-level metrics give the candidate's outputs'
    value and the original's as ``value`` and ``reference_value`` instead of scores, and leave the
    candidate's outputs in the folder `keep` for :func:`bootstrap`.
    """
    examples = datasets.reopen(dataset)
    if limit is not None and limit < len(examples):
        examples = examples.subset(np.arange(limit))
    stored = _open_outputs(reference, reference_names)
    scorer = metrics.reopen(metric)
    scores, errors, changed = [], [], []
    kept: list[dict[str, np.ndarray]] = []
    for rows, outputs in _outputs(spec, payload, examples, batch):
        expected = {name: np.asarray(values[rows]) for name, values in stored.items()}
        errors.append(_relative_errors(expected, outputs))
        changed.append(metrics.decisions_changed(expected, outputs))
        if scorer.kind == "set":
            kept.append(outputs)
        else:
            scores.append(scorer.scores(outputs, examples.targets(rows), expected))
    result: dict[str, Any] = {"errors": np.concatenate(errors), "changed": np.concatenate(changed)}
    if scorer.kind == "set":
        mine = _joined(kept)
        if keep is not None:
            _save(mine, reference_names, Path(keep))
        theirs = {name: np.asarray(values[: len(examples)]) for name, values in stored.items()}
        targets = examples.targets(np.arange(len(examples)))
        result["value"] = np.float64(scorer.value(mine, targets, theirs))
        result["reference_value"] = np.float64(scorer.value(theirs, targets, theirs))
    else:
        result["scores"] = np.concatenate(scores)
    return result


def bootstrap(
    dataset: dict[str, Any],
    metric: dict[str, Any],
    reference: str,
    candidate: str,
    names: list[str],
    alpha: float,
    tolerance: float,
    seed: int,
    seconds: float,
) -> dict[str, Any]:
    """Resamples of the drop of a set-level metric, or the reason why there are none.

    `reference` and `candidate` are folders of outputs, one ``.npy`` a name, in order.
    """
    from strop.proof import BootstrapRefused

    examples = datasets.reopen(dataset)
    try:
        found = metrics.resampled_drop(
            metrics.reopen(metric),
            _open_outputs(reference, names),
            _open_outputs(candidate, names),
            examples.targets(np.arange(len(examples))),
            groups=examples.groups,
            alpha=alpha,
            tolerance=tolerance,
            seed=seed,
            seconds=seconds,
        )
    except BootstrapRefused as refusal:
        return {"reason": str(refusal)}
    return {"estimate": found.estimate, "draws": found.draws, "left_out": found.left_out}


def _live(payload: np.ndarray | None) -> ModuleSource | None:
    return None if payload is None else ModuleSource(payload=payload.tobytes())


@contextlib.contextmanager
def _opened(spec: dict[str, Any], payload: np.ndarray | None) -> Iterator[engines.Session]:
    given = None if payload is None else payload.tobytes()
    session = engines.open_session(SessionSpec.from_dict(spec), payload=given)
    try:
        yield session
    finally:
        session.close()


def _outputs(
    spec: dict[str, Any], payload: np.ndarray | None, examples: Dataset, batch: int
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Rows and outputs by batch, of a session that is open while they are read."""
    with _opened(spec, payload) as session:
        yield from _run(session, examples, batch)


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _run(
    session: engines.Session, examples: Dataset, batch: int
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Outputs by batch; a fixed batch dimension is filled up with the last example."""
    fixed = {
        spec.shape[0]
        for spec in session.signature.inputs
        if spec.shape and isinstance(spec.shape[0], int)
    }
    size = next(iter(fixed)) if len(fixed) == 1 else batch
    for start in range(0, len(examples), size):
        rows = np.arange(start, min(start + size, len(examples)))
        wanted = np.minimum(np.arange(start, start + size), len(examples) - 1)
        inputs = examples.inputs(wanted if fixed or len(rows) == size else rows)
        outputs = session.run(inputs)
        yield rows, {name: values[: len(rows)] for name, values in outputs.items()}


def _mapped(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """An array on disk whose room is taken at once: a full disk would kill a later write."""
    file: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as stream:
            try:
                os.posix_fallocate(stream.fileno(), 0, file.offset + file.nbytes)
            except OSError as error:
                raise InputError(
                    f"the original's outputs take {file.nbytes:,} bytes, which the folder for "
                    f"temporary files does not have: {error.strerror}",
                    hint="make room, or set TMPDIR to another folder",
                ) from error
    return file


def _save(outputs: dict[str, np.ndarray], names: list[str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        np.save(folder / f"{index}.npy", outputs[name], allow_pickle=False)


def _open_outputs(folder: str, names: list[str]) -> dict[str, np.ndarray]:
    return {
        name: np.load(Path(folder) / f"{index}.npy", mmap_mode="r", allow_pickle=False)
        for index, name in enumerate(names)
    }


def _relative_errors(expected: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> np.ndarray:
    per_output = [models.relative_errors(expected[name], outputs[name]) for name in expected]
    return np.asarray(np.max(per_output, axis=0))
