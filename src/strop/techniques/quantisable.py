"""Which layers of a graph can run in int8, and which tensors must then be quantised.

ONNX Runtime has an integer convolution only with a quantised *output* (QLinearConv), so what a
convolution reads and what it writes is quantised, and everything cheap between two of them.
OpenVINO would do with the inputs alone and fuse residual additions into the convolution; on
EfficientNet-Lite0 that was neither faster nor better, so one placement serves both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from strop.techniques.onnx_view import GraphView, attribute

if TYPE_CHECKING:
    from onnx import NodeProto

FUSED_ACTIVATIONS = frozenset({"Relu", "Clip"})
"""What both runtimes fold into the convolution before it."""

SAME_SCALE = frozenset(
    {"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Slice"}
    | {"Concat", "Split", "Expand", "DepthToSpace", "SpaceToDepth"}
)
"""Ops that move or select values: input and output share one scale, so that they move bytes."""

OWN_SCALE = frozenset({"Add", "Mul", "Sigmoid", "LeakyRelu", "AveragePool", "GlobalAveragePool"})
"""Ops with an integer kernel that rescales."""


@dataclass(frozen=True)
class Layer:
    """One node with constant weights.

    Attributes
    ----------
    name, op
        Of the node: Conv, Gemm or MatMul.
    data, weight, bias
        Tensors it reads; `bias` is None where there is none.
    output
        What it writes, after a fused activation.
    raw_output
        What the node itself writes.
    channel_axis
        The axis of the weight that runs over output channels.
    groups
        Of a convolution; 1 otherwise.
    """

    name: str
    op: str
    data: str
    weight: str
    bias: str | None
    output: str
    raw_output: str
    channel_axis: int
    groups: int = 1


def find_layers(view: GraphView) -> list[Layer]:
    """All layers that have an integer kernel in both runtimes, in the graph's order."""
    found = (_layer(view, node) for node in view.nodes.values())
    return [layer for layer in found if layer is not None]


@dataclass(frozen=True)
class Plan:
    """What to quantise.

    Attributes
    ----------
    layers
        The layers that run in int8.
    tensors
        Activations that get a quantise-dequantise pair, sorted.
    everywhere
        Those of `tensors` whose producer is an integer kernel: every reader gets the rounded
        value. Of the others only integer kernels do.
    readers
        The nodes that run in int8: the layers and the ops between them.
    groups
        Tensors that share one scale, each group sorted.
    """

    layers: tuple[Layer, ...]
    tensors: tuple[str, ...]
    everywhere: frozenset[str]
    readers: frozenset[str]
    groups: tuple[tuple[str, ...], ...]


def plan(
    view: GraphView,
    *,
    keep_float: Collection[str] = (),
) -> Plan:
    """Decide what is quantised when every layer but `keep_float` (node names) runs in int8."""
    layers = tuple(
        layer
        for layer in find_layers(view)
        if layer.name not in keep_float and (layer.op != "Conv" or view.is_private(layer.output))
    )
    everywhere = {layer.output for layer in layers if layer.op == "Conv"}
    tensors = {layer.data for layer in layers} | everywhere
    readers = {layer.name for layer in layers}
    _grow(view, tensors, everywhere, readers)
    groups = _shared_scales(view, tensors, readers)
    return Plan(layers, tuple(sorted(tensors)), frozenset(everywhere), frozenset(readers), groups)


def _layer(view: GraphView, node: NodeProto) -> Layer | None:
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return None
    weight = view.constant(node.input[1])
    if weight is None or weight.dtype != np.float32 or node.input[0] in view.initializers:
        return None
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    axis = {"Conv": 0, "MatMul": 1}.get(node.op_type, 1 - int(attribute(node, "transB", 0)))
    if node.op_type == "Conv":
        fits = weight.ndim in (3, 4, 5)
    else:
        fits = weight.ndim == 2 and attribute(node, "transA", 0) == 0
        fits = fits and attribute(node, "alpha", 1.0) == 1.0 == attribute(node, "beta", 1.0)
    if bias is not None:
        value = view.constant(bias)
        fits = fits and value is not None and value.size == weight.shape[axis]
    if not fits:
        return None
    raw = node.output[0]
    follower = view.sole_consumer(raw)
    output = raw
    if node.op_type == "Conv" and follower is not None and _fuses(view, follower):
        output = follower.output[0]
    groups = int(attribute(node, "group", 1))
    return Layer(
        node.name, node.op_type, node.input[0], node.input[1], bias, output, raw, axis, groups
    )


def _fuses(view: GraphView, node: NodeProto) -> bool:
    if node.op_type not in FUSED_ACTIVATIONS:
        return False
    return all(name in view.initializers for name in node.input[1:] if name)


def _grow(view: GraphView, tensors: set[str], everywhere: set[str], readers: set[str]) -> None:
    """Let ops between integer layers run in int8 too: forwards where all that an op reads is
    quantised, and only where its result flows on into a layer.
    """
    useful = _flows_into(view, tensors)
    for node in view.nodes.values():
        if node.op_type not in SAME_SCALE | OWN_SCALE:
            continue
        data = _data_inputs(node)
        outputs = [name for name in node.output if name]
        if not all(name in tensors for name in data) or not data:
            continue
        if all(name in useful and view.is_private(name) for name in outputs):
            tensors.update(outputs)
            everywhere.update(outputs)
            readers.add(node.name)


def _flows_into(view: GraphView, tensors: Iterable[str]) -> set[str]:
    """Tensors that reach one of `tensors` through ops that can run in int8."""
    useful = set(tensors)
    for node in reversed(view.nodes.values()):
        if node.op_type in SAME_SCALE | OWN_SCALE and useful.intersection(node.output):
            useful.update(_data_inputs(node))
    return useful


def _data_inputs(node: NodeProto) -> list[str]:
    """The activations among a node's inputs (not its shapes, axes or bounds)."""
    if node.op_type in ("Concat", "Add", "Mul"):
        return list(node.input)
    return list(node.input[:1])


def _shared_scales(
    view: GraphView, tensors: set[str], readers: set[str]
) -> tuple[tuple[str, ...], ...]:
    parent = {name: name for name in tensors}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for name in readers:
        node = view.nodes[name]
        if node.op_type in SAME_SCALE:
            members = [*_data_inputs(node), *(name for name in node.output if name)]
            for other in members[1:]:
                parent[root(other)] = root(members[0])
    groups: dict[str, list[str]] = {}
    for name in sorted(tensors):
        groups.setdefault(root(name), []).append(name)
    return tuple(sorted(tuple(members) for members in groups.values()))
