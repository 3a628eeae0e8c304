"""What runs in children: importing, techniques, builds and evaluations.

Every function takes and returns plain data and arrays; models and artefacts travel by path.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from strop import data as datasets
from strop import engines, metrics, models, techniques
from strop.data import Dataset
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
) -> str:
    """Apply one technique; the new model's directory."""
    folder = Path(workdir)
    context = Context(
        workdir=folder,
        target=Target.from_dict(target),
        data={role: datasets.reopen(described) for role, described in roles.items()},
        seed=seed,
        deadline=None if seconds is None else time.monotonic() + seconds,
        emit=lambda line: emit({"line": line}),
    )
    source = ModuleSource(payload=payload.tobytes()) if payload is not None else None
    result = techniques.get(technique).apply(
        Model.open(Path(model), source=source), params, context
    )
    shutil.rmtree(folder / "scratch", ignore_errors=True)
    return str(result.path)


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
    session = engines.open_session(SessionSpec.from_dict(spec), payload=_bytes(payload))
    try:
        for rows, outputs in _run(session, examples, batch):
            for index, (name, values) in enumerate(outputs.items()):
                if name not in files:
                    files[name] = np.lib.format.open_memmap(
                        target / f"{index}.npy",
                        mode="w+",
                        dtype=values.dtype,
                        shape=(len(examples), *values.shape[1:]),
                    )
                files[name][rows] = values
            if scorer.kind != "set":
                scores.append(scorer.scores(outputs, examples.targets(rows), outputs))
    finally:
        session.close()
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
    session = engines.open_session(SessionSpec.from_dict(spec), payload=_bytes(payload))
    try:
        parts = [outputs for _, outputs in _run(session, examples, len(rows))]
    finally:
        session.close()
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def pace(
    spec: dict[str, Any],
    payload: np.ndarray | None,
    dataset: dict[str, Any],
    rows: np.ndarray,
    batch: int,
) -> float:
    """Seconds that the original takes for a few examples, the second time over."""
    examples = datasets.reopen(dataset).subset(rows)
    session = engines.open_session(SessionSpec.from_dict(spec), payload=_bytes(payload))
    seconds = 0.0
    try:
        for _ in range(2):
            start = time.monotonic()
            for _ in _run(session, examples, batch):
                pass
            seconds = time.monotonic() - start
    finally:
        session.close()
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
) -> dict[str, np.ndarray]:
    """Score a candidate beside the original's stored outputs.

    Returns, per example: ``scores``, ``errors`` (the worst output's relative error) and
    ``changed`` (whether any decision changed). Set-level metrics give the candidate's outputs'
    value and the original's as ``value`` and ``reference_value`` instead of scores.
    """
    examples = datasets.reopen(dataset)
    if limit is not None and limit < len(examples):
        examples = examples.subset(np.arange(limit))
    stored = _open_reference(reference, reference_names)
    scorer = metrics.reopen(metric)
    scores, errors, changed = [], [], []
    kept: list[dict[str, np.ndarray]] = []
    session = engines.open_session(SessionSpec.from_dict(spec), payload=_bytes(payload))
    try:
        for rows, outputs in _run(session, examples, batch):
            expected = {name: np.asarray(values[rows]) for name, values in stored.items()}
            errors.append(_relative_errors(expected, outputs))
            changed.append(metrics.decisions_changed(expected, outputs))
            if scorer.kind == "set":
                kept.append(outputs)
            else:
                scores.append(scorer.scores(outputs, examples.targets(rows), expected))
    finally:
        session.close()
    result: dict[str, Any] = {"errors": np.concatenate(errors), "changed": np.concatenate(changed)}
    if scorer.kind == "set":
        mine = {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
        theirs = {name: np.asarray(values[: len(examples)]) for name, values in stored.items()}
        targets = examples.targets(np.arange(len(examples)))
        result["value"] = np.float64(scorer.value(mine, targets, theirs))
        result["reference_value"] = np.float64(scorer.value(theirs, targets, theirs))
    else:
        result["scores"] = np.concatenate(scores)
    return result


def bootstrap(
    spec: dict[str, Any],
    payload: np.ndarray | None,
    dataset: dict[str, Any],
    batch: int,
    metric: dict[str, Any],
    reference: str,
    reference_names: list[str],
    alpha: float,
    tolerance: float,
    seed: int,
) -> dict[str, Any]:
    """The paired BCa bound on the drop of a set-level metric, or why it was refused."""
    from strop.proof import BootstrapRefused, bca_upper

    examples = datasets.reopen(dataset)
    theirs = {
        name: np.asarray(values)
        for name, values in _open_reference(reference, reference_names).items()
    }
    scorer = metrics.reopen(metric)
    targets = examples.targets(np.arange(len(examples)))
    session = engines.open_session(SessionSpec.from_dict(spec), payload=_bytes(payload))
    parts: list[dict[str, np.ndarray]] = []
    try:
        parts.extend(outputs for _, outputs in _run(session, examples, batch))
    finally:
        session.close()
    mine = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    changed = np.zeros(len(examples), bool)
    for name in mine:
        difference = mine[name] != theirs[name]
        changed |= difference.reshape(len(examples), -1).any(axis=1)

    def drop(rows: np.ndarray) -> float:
        truth = None if targets is None else targets[rows]
        first = {name: values[rows] for name, values in theirs.items()}
        second = {name: values[rows] for name, values in mine.items()}
        return float(scorer.value(first, truth, first) - scorer.value(second, truth, first))

    try:
        upper = bca_upper(
            drop,
            len(examples),
            alpha,
            seed=seed,
            changed=int(changed.sum()),
            tolerance=tolerance,
            groups=examples.groups,
        )
    except BootstrapRefused as refusal:
        return {"upper": None, "reason": str(refusal), "drop": drop(np.arange(len(examples)))}
    return {"upper": upper, "reason": "", "drop": drop(np.arange(len(examples)))}


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


def _open_reference(folder: str, names: list[str]) -> dict[str, np.ndarray]:
    return {
        name: np.load(Path(folder) / f"{index}.npy", mmap_mode="r", allow_pickle=False)
        for index, name in enumerate(names)
    }


def _relative_errors(expected: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> np.ndarray:
    per_output = [models.relative_errors(expected[name], outputs[name]) for name in expected]
    return np.asarray(np.max(per_output, axis=0))


def _bytes(payload: np.ndarray | None) -> bytes | None:
    return None if payload is None else payload.tobytes()
