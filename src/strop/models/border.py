"""What a graph declares at its border: the names, types and sizes of inputs and outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from strop.errors import ModelError
from strop.models import graph
from strop.records import Dim, Signature, TensorSpec

if TYPE_CHECKING:
    import onnx


def declare(proto: onnx.ModelProto, signature: Signature) -> onnx.ModelProto:
    """A copy of `proto` that declares its inputs and outputs as `signature` does.

    A graph that was exported again calls its free dimensions otherwise, and may leave free what
    was fixed. The other way round is an error: an input that was free must be free still.

    Raises
    ------
    ModelError
        When names, types or sizes are not those of `signature`.
    """
    found = graph.signature(proto)
    names = (found.input_names, found.output_names)
    if names != (signature.input_names, signature.output_names):
        raise ModelError(f"the graph is {found}, not {signature}")
    result = type(proto)()
    result.CopyFrom(proto)
    pairs = [
        (spec, value, True) for spec, value in zip(signature.inputs, _inputs(result), strict=True)
    ]
    pairs += [
        (spec, value, False)
        for spec, value in zip(signature.outputs, result.graph.output, strict=True)
    ]
    declared = {spec.name: spec for spec in (*found.inputs, *found.outputs)}
    for spec, value, is_input in pairs:
        own = declared[spec.name]
        if not _fits(own, spec, is_input):
            raise ModelError(f"the graph has {own} where {spec} was")
        dims = value.type.tensor_type.shape.dim
        for dim, wanted in zip(dims, spec.shape or (), strict=False):
            _set(dim, wanted)
    result.graph.ClearField("value_info")  # inferred with the old symbols
    return result


def _fits(own: TensorSpec, wanted: TensorSpec, is_input: bool) -> bool:
    if own.dtype != wanted.dtype or own.shape is None or wanted.shape is None:
        return (own.dtype, own.shape) == (wanted.dtype, wanted.shape)
    if len(own.shape) != len(wanted.shape):
        return False
    for size, goal in zip(own.shape, wanted.shape, strict=True):
        if isinstance(size, int) and isinstance(goal, int) and size != goal:
            return False
        if isinstance(size, int) and not isinstance(goal, int) and is_input:
            return False
    return True


def _inputs(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    stored = {tensor.name for tensor in proto.graph.initializer}
    return [value for value in proto.graph.input if value.name not in stored]


def _set(dim: Any, wanted: Dim) -> None:
    dim.Clear()
    if isinstance(wanted, int):
        dim.dim_value = wanted
    elif wanted is not None:
        dim.dim_param = wanted
