"""ONNX files, brought into normal form and given a free batch where that is safe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strop.errors import ModelError
from strop.models import graph
from strop.models.batch import free_batch
from strop.models.model import Model, ModuleSource
from strop.models.normal import normalise
from strop.models.parity import parity
from strop.models.runner import Runner, first_divergence
from strop.models.sample import Shapes, random_inputs
from strop.records import Signature

if TYPE_CHECKING:
    import onnx

Emit = Callable[[str], None]


def import_onnx(
    path: Path,
    workdir: Path,
    *,
    examples: Mapping[str, np.ndarray] | None = None,
    shapes: Shapes | None = None,
    emit: Emit = lambda line: None,
) -> Model:
    """The ONNX file at `path` as a sealed model in `workdir`.

    Raises
    ------
    ModelError
        When the file is unreadable, unsafe, invalid, or of an opset that cannot be converted.
    """
    proto = graph.read(path)
    meta = {"original_format": "onnx", "file_name": path.name, **_origin(proto)}
    return seal_onnx(
        proto, workdir, meta=meta, examples=examples, shapes=shapes, emit=emit, free=True
    )


def seal_onnx(
    proto: onnx.ModelProto,
    workdir: Path,
    *,
    meta: Mapping[str, Any],
    examples: Mapping[str, np.ndarray] | None = None,
    shapes: Shapes | None = None,
    source: ModuleSource | None = None,
    emit: Emit = lambda line: None,
    free: bool = False,
) -> Model:
    """Normalise `proto`, free its batch if asked to, write it as the onnx form and seal.

    ``meta`` gains ``opset``, ``quantised``, ``control_flow``, ``custom_domains``, ``batch`` and
    ``changes`` (a line for each change made).
    """
    opset = graph.default_opset(proto)
    before = type(proto)()
    before.CopyFrom(proto)
    proto, changes = normalise(proto)
    given = graph.signature(proto)
    _check_shapes(given, shapes)
    if opset != graph.default_opset(proto):
        _check_conversion(before, proto, given, examples, shapes)
    del before
    facts: dict[str, Any] = {
        "original_opset": opset,
        "opset": graph.default_opset(proto),
        "quantised": graph.is_quantised(proto),
        "control_flow": graph.control_flow(proto),
        "custom_domains": graph.custom_domains(proto),
        "batch": {"declared": None, "freed": False, "reason": ""},
    }
    proto = _with_shapes(proto, emit)
    if free:
        proto, facts["batch"] = free_batch(proto, examples=examples, shapes=shapes)
        if facts["batch"]["freed"]:
            changes.append(f"the fixed batch of {facts['batch']['declared']} is free now")
        elif facts["batch"]["reason"]:
            emit(f"the batch stays fixed: {facts['batch']['reason']}")
    for line in changes:
        emit(line)
    if facts["custom_domains"]:
        emit(f"custom operators of {', '.join(facts['custom_domains'])} need their own runtime")
    proto = _with_shapes(proto, emit)
    graph.write(proto, workdir / "onnx" / "model.onnx")
    return Model.seal(
        workdir,
        graph.signature(proto),
        source=source,
        meta={**meta, **facts, "changes": changes},
    )


def _origin(proto: onnx.ModelProto) -> dict[str, Any]:
    producer = f"{proto.producer_name} {proto.producer_version}".strip()
    return {"producer": producer or "unknown", "original_ir": int(proto.ir_version)}


def _with_shapes(proto: onnx.ModelProto, emit: Emit) -> onnx.ModelProto:
    try:
        return graph.infer_shapes(proto)
    except ModelError as error:  # ONNX's inference is stricter than runtimes are
        emit(error.message)
        return proto


def _check_shapes(signature: Signature, shapes: Shapes | None) -> None:
    for name, shape in (shapes or {}).items():
        spec = next((spec for spec in signature.inputs if spec.name == name), None)
        if spec is None:
            raise ModelError(
                f"a shape is given for '{name}', which is no input",
                hint=f"inputs: {', '.join(signature.input_names)}",
            )
        if spec.shape is not None and len(spec.shape) != len(shape):
            given = "x".join(map(str, shape))
            raise ModelError(f"the shape {given} is given, but the input is {spec}")


def _check_conversion(
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    signature: Signature,
    examples: Mapping[str, np.ndarray] | None,
    shapes: Shapes | None,
) -> None:
    """Hold the converted graph against the given one on a few examples.

    A graph that ONNX Runtime cannot run as given (custom operators, random data that no model
    takes) is not compared: there is nothing to compare with.
    """
    try:
        arrays = few_examples(signature, examples, shapes)
        original = Runner(before)
        expected = original.run(arrays)
    except ModelError:
        return
    result = parity(expected, Runner(after).run(arrays))
    if result.ok or not parity(expected, original.run(arrays)).ok:
        return  # a graph that differs from itself (random operators) cannot be compared
    first = first_divergence(before, after, arrays)
    raise ModelError(
        f"the conversion of opset {graph.default_opset(before)} to "
        f"{graph.default_opset(after)} changes the outputs: {result}"
        + (f", first at '{first}'" if first else ""),
        hint=f"export the model again with opset {graph.OPSETS[0]}–{graph.OPSETS[-1]}",
    )


def few_examples(
    signature: Signature,
    examples: Mapping[str, np.ndarray] | None,
    shapes: Shapes | None,
    rows: int = 2,
) -> dict[str, np.ndarray]:
    """The first examples, as many as a fixed batch demands, or random ones."""
    if examples is None or any(name not in examples for name in signature.input_names):
        return random_inputs(signature, rows=rows, shapes=shapes)
    arrays = {}
    for spec in signature.inputs:
        array = np.asarray(examples[spec.name])
        fixed = spec.shape[0] if spec.shape else None
        count = fixed if isinstance(fixed, int) else rows
        arrays[spec.name] = np.resize(array, (count, *array.shape[1:])) if spec.shape else array
    return arrays
