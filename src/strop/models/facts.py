"""What a graph costs on paper: operations, bytes, parameters, layer by layer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from strop.errors import ModelError
from strop.models import graph
from strop.models.model import Model
from strop.models.sample import FREE_DIMENSION, Shapes
from strop.records import Dim

if TYPE_CHECKING:
    import onnx

_FREE = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape", "Size"})
"""Operators that neither compute nor move: runtimes hand the same memory on."""
_MOVERS = frozenset(
    {
        "Transpose",
        "Concat",
        "Split",
        "Slice",
        "Pad",
        "Expand",
        "Tile",
        "Cast",
        "CastLike",
        "Gather",
        "GatherND",
        "GatherElements",
        "Scatter",
        "ScatterND",
        "ScatterElements",
        "DepthToSpace",
        "SpaceToDepth",
        "Constant",
        "ConstantOfShape",
        "Range",
        "OneHot",
        "NonZero",
        "Where",
        "Compress",
        "ReverseSequence",
        "Trilu",
        "EyeLike",
    }
)
_PER_ELEMENT = {
    "Softmax": 5,
    "LogSoftmax": 5,
    "LayerNormalization": 8,
    "SkipLayerNormalization": 9,
    "GroupNormalization": 8,
    "InstanceNormalization": 8,
    "BatchNormalization": 2,
    "Gelu": 8,
    "QuantizeLinear": 3,
    "DequantizeLinear": 2,
    "DynamicQuantizeLinear": 5,
}
"""Operations an output element, where it is not 1; the usual rough counts."""


@dataclass(frozen=True)
class LayerFacts:
    """One node: its operations and the bytes it reads and writes; None where a shape is unknown."""

    name: str
    operator: str
    flops: int | None
    bytes_moved: int | None


@dataclass(frozen=True)
class GraphFacts:
    """What a graph costs at given input shapes.

    Attributes
    ----------
    operators
        How often each operator occurs, subgraphs included.
    parameters
        Elements of the weights: stored tensors of floats or of 8 bits and less.
    flops
        Floating-point operations of one call (a multiply-add is two). Bodies of loops count
        once, and of a branch the dearer side.
    bytes_moved
        Bytes that the nodes read and write: what memory sees if nothing is fused.
    weights_bytes
        Bytes of all stored tensors.
    dynamic_dims
        Free axes of each input.
    control_flow, quantised
        Whether the graph branches or loops; whether it computes on integers already.
    unknown_nodes
        Nodes left out of `flops` and `bytes_moved`, because a shape depends on data.
    layers
        The main graph's nodes in order.
    """

    operators: Mapping[str, int]
    parameters: int
    flops: int
    bytes_moved: int
    weights_bytes: int
    dynamic_dims: Mapping[str, tuple[int, ...]]
    control_flow: bool
    quantised: bool
    unknown_nodes: int
    layers: tuple[LayerFacts, ...]


def facts(
    model: Model | onnx.ModelProto,
    *,
    examples: Mapping[str, np.ndarray] | None = None,
    shapes: Shapes | None = None,
    batch: int | None = None,
) -> GraphFacts:
    """Count what the graph does for inputs of the examples' shapes.

    Parameters
    ----------
    examples, shapes
        Where the sizes of free dimensions come from; 8 where neither tells.
    batch
        The size of a free first dimension; by default what `examples` hold, or 1.

    Raises
    ------
    ModelError
        When the model has no onnx form, or its shapes do not fit together.
    """
    proto = _proto(model)
    sized = graph.infer_shapes(with_sizes(proto, examples, shapes, batch))
    types = bits_by_name(sized)
    layers = tuple(_layers(sized.graph, graph.shapes_by_name(sized), types))
    return GraphFacts(
        operators=dict(Counter(graph.operators(proto)).most_common()),
        parameters=sum(math.prod(t.dims) for t in graph.tensors(proto) if _is_weight(t)),
        flops=sum(layer.flops or 0 for layer in layers),
        bytes_moved=sum(layer.bytes_moved or 0 for layer in layers),
        weights_bytes=graph.weight_bytes(proto),
        dynamic_dims={
            spec.name: tuple(
                i for i, dim in enumerate(spec.shape or ()) if not isinstance(dim, int)
            )
            for spec in graph.inputs(proto)
        },
        control_flow=graph.control_flow(proto),
        quantised=graph.is_quantised(proto),
        unknown_nodes=sum(layer.flops is None for layer in layers),
        layers=layers,
    )


def _proto(model: Model | onnx.ModelProto) -> onnx.ModelProto:
    if not isinstance(model, Model):
        return model
    if "onnx" not in model.forms:
        raise ModelError(f"the model in '{model.path.name}' has no onnx form to count in")
    return graph.read(model.forms["onnx"])


def with_sizes(
    proto: onnx.ModelProto,
    examples: Mapping[str, np.ndarray] | None,
    shapes: Shapes | None,
    batch: int | None,
) -> onnx.ModelProto:
    """A copy with every input dimension a number, and values to be inferred anew."""
    sized = graph.without_weights(proto)
    stored = {tensor.name for tensor in proto.graph.initializer}
    symbols: dict[str, int] = {}
    for value in sized.graph.input:
        if value.name in stored:
            continue
        known: Sequence[Dim] = ()
        if examples is not None and value.name in examples:
            known = np.shape(examples[value.name])
        elif shapes and value.name in shapes:
            known = tuple(shapes[value.name])
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_value"):
                continue
            given = known[axis] if axis < len(known) else None
            size = given if isinstance(given, int) else 1 if axis == 0 else FREE_DIMENSION
            if axis == 0 and batch is not None:
                size = batch
            dim.dim_value = symbols.setdefault(dim.dim_param, size) if dim.dim_param else size
    for inner in graph.graphs(sized.graph):
        inner.ClearField("value_info")
    for value in sized.graph.output:
        value.type.tensor_type.ClearField("shape")
    return sized


def bits_by_name(proto: onnx.ModelProto) -> dict[str, int]:
    """Bits of an element of each tensor whose type is known."""
    types: dict[str, int] = {}
    for inner in graph.graphs(proto.graph):
        for tensor in inner.initializer:
            types[tensor.name] = tensor.data_type
        for value in (*inner.input, *inner.value_info, *inner.output):
            if value.type.tensor_type.elem_type:
                types[value.name] = value.type.tensor_type.elem_type
    return {name: graph.element_bits(kind) for name, kind in types.items()}


def _layers(
    current: onnx.GraphProto, shapes: Mapping[str, tuple[Dim, ...]], bits: Mapping[str, int]
) -> list[LayerFacts]:
    layers = []
    for node in current.node:
        inner = [a.g for a in node.attribute if a.HasField("g")]
        if not inner:
            layers.append(_layer(node, shapes, bits))
            continue
        costs = []
        for body in inner:
            found = _layers(body, {**shapes, **graph.shapes_of(body)}, bits)
            known = [layer for layer in found if layer.flops is not None]
            costs.append(
                (
                    sum(layer.flops or 0 for layer in known),
                    sum(layer.bytes_moved or 0 for layer in known),
                )
            )
        flops, moved = max(costs)
        layers.append(LayerFacts(node.name, _operator(node), flops, moved))
    return layers


def _layer(
    node: onnx.NodeProto, shapes: Mapping[str, tuple[Dim, ...]], bits: Mapping[str, int]
) -> LayerFacts:
    ins = [_sizes(name, shapes) for name in node.input if name]
    outs = [_sizes(name, shapes) for name in node.output if name]
    if node.op_type in _FREE:
        return LayerFacts(node.name, _operator(node), 0, 0)
    if any(size is None for size in (*ins, *outs)):
        return LayerFacts(node.name, _operator(node), None, None)
    by_name = {name: _sizes(name, shapes) or () for name in (*node.input, *node.output) if name}
    moved = sum(_bytes(name, by_name, bits) for name in node.input if name)
    if node.op_type.startswith("Gather"):  # reads what it picks, not the whole table
        moved = sum(_bytes(name, by_name, bits) for name in (node.input[1], *node.output[:1]))
    moved += sum(_bytes(name, by_name, bits) for name in node.output if name)
    return LayerFacts(node.name, _operator(node), _flops(node, by_name), moved)


def _flops(node: onnx.NodeProto, sizes: Mapping[str, tuple[int, ...]]) -> int:
    out = math.prod(sizes[next(name for name in node.output if name)])
    kind = node.op_type.removeprefix("Fused").removeprefix("QLinear").removesuffix("Integer")
    # QLinearConv and QLinearMatMul hold x, x_scale, x_zero, w: the second operand is the fourth.
    second = 3 if node.op_type in ("QLinearConv", "QLinearMatMul") else 1
    attributes = {a.name: a for a in node.attribute}
    if kind == "Conv":
        weight = sizes[node.input[second]]
        bias = out if len(node.input) > (8 if second == 3 else 2) else 0
        return 2 * out * math.prod(weight[1:]) + bias
    if kind == "ConvTranspose":
        data, weight = sizes[node.input[0]], sizes[node.input[1]]
        return 2 * math.prod(data) * math.prod(weight[1:])
    if kind == "Gemm":
        data = sizes[node.input[0]]
        transposed = "transA" in attributes and attributes["transA"].i
        bias = out if len(node.input) > 2 and node.input[2] else 0
        return 2 * out * data[0 if transposed else -1] + bias
    if kind in ("MatMul", "MatMulNBits"):
        data = sizes[node.input[0]]
        transposed = "transA" in attributes and attributes["transA"].i and len(data) > 1
        return 2 * out * data[-2 if transposed else -1]
    if kind in ("LSTM", "GRU", "RNN"):
        steps = math.prod(sizes[node.input[0]][:2])
        weights = sum(math.prod(sizes[name]) for name in node.input[1:3])
        return 2 * steps * weights
    if kind.endswith("Pool") and "kernel_shape" in attributes:
        window: int = math.prod(attributes["kernel_shape"].ints)
        return out * window
    if kind.startswith(("Reduce", "ArgM", "Global", "TopK", "CumSum")):
        return math.prod(sizes[node.input[0]])
    if kind in _MOVERS:
        return 0
    return out * _PER_ELEMENT.get(node.op_type, 1)


def _sizes(name: str, shapes: Mapping[str, tuple[Dim, ...]]) -> tuple[int, ...] | None:
    shape = shapes.get(name)
    if shape is None:
        return None
    sizes = tuple(dim for dim in shape if isinstance(dim, int))
    return sizes if len(sizes) == len(shape) else None


def _bytes(name: str, sizes: Mapping[str, tuple[int, ...]], bits: Mapping[str, int]) -> int:
    elements: int = math.prod(sizes[name])
    return (elements * bits.get(name, 32) + 7) // 8


def _operator(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _is_weight(tensor: onnx.TensorProto) -> bool:
    """Floats, and integers so narrow that they stand for floats; int64 are shapes and axes."""
    name = graph.dtype_name(tensor.data_type)
    return "float" in name or ("int" in name and graph.element_bits(tensor.data_type) <= 8)
