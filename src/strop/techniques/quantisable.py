"""Which layers of a graph can run in int8, and which tensors must then be quantised.

ONNX Runtime has an integer convolution only with a quantised *output* (QLinearConv), so what a
convolution reads and what it writes is quantised, and everything cheap between two of them.
OpenVINO would do with the inputs alone and fuse residual additions into the convolution; on
EfficientNet-Lite0 that was neither faster nor better, so one placement serves both.

How far int8 spreads beyond the layers is a choice, `reach`:

narrow
    To what lies between two layers and moves, pools, adds or multiplies activations.
wide
    Also through additions with a Relu behind them, sums and products with constants, lookups in
    constant tables (embeddings) and out of Gemm. One rounding more each, one float pass less.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from strop.techniques.onnx_view import GraphView, attribute

if TYPE_CHECKING:
    from onnx import NodeProto

Reach = Literal["narrow", "wide"]

FUSED_ACTIVATIONS = frozenset({"Relu", "Clip"})
"""What both runtimes fold into the kernel before it: the lowest integer is the bound."""

SAME_SCALE = frozenset(
    {"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Slice"}
    | {"Concat", "Split", "Expand", "DepthToSpace", "SpaceToDepth", "Gather"}
)
"""Ops that move or select values: input and output share one scale, so that they move bytes."""

OWN_SCALE = frozenset({"Add", "Mul", "Sigmoid", "LeakyRelu", "AveragePool", "GlobalAveragePool"})
"""Ops with an integer kernel that rescales."""

_NARROW = (SAME_SCALE | OWN_SCALE) - {"Gather"}


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
        Activations that get a quantise-dequantise pair, sorted; and constants that int8 nodes read
        beside them (tables, terms, factors).
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
    reach: Reach = "narrow",
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
    _Growth(view, layers, tensors, everywhere, readers, wide=reach == "wide").run()
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
    if follower is not None and _fuses(view, follower):
        output = follower.output[0]
    groups = int(attribute(node, "group", 1))
    return Layer(
        node.name, node.op_type, node.input[0], node.input[1], bias, output, raw, axis, groups
    )


def _fuses(view: GraphView, node: NodeProto) -> bool:
    """Whether an integer kernel can take `node`, which follows it, into itself."""
    if node.op_type not in FUSED_ACTIVATIONS:
        return False
    return all(name in view.initializers for name in node.input[1:] if name)


class _Growth:
    """Lets ops between integer layers run in int8 too: forwards where all that an op reads is
    quantised, and only where its result flows on into a layer.
    """

    def __init__(
        self,
        view: GraphView,
        layers: Iterable[Layer],
        tensors: set[str],
        everywhere: set[str],
        readers: set[str],
        *,
        wide: bool,
    ) -> None:
        self._view, self._wide = view, wide
        self._tensors, self._everywhere, self._readers = tensors, everywhere, readers
        self._layers = {layer.name: layer for layer in layers}
        self._useful = self._flows_into()

    def run(self) -> None:
        for node in self._view.nodes.values():
            if node.name in self._layers:
                written = self._of_layer(self._layers[node.name])
            else:
                written = self._of_op(node)
            self._tensors.update(written)
            self._everywhere.update(written)

    def _of_layer(self, layer: Layer) -> list[str]:
        """What a layer writes, if that is to be quantised for those behind it."""
        if not self._wide or layer.op != "Gemm" or layer.output not in self._useful:
            return []
        return [layer.output] if self._view.is_private(layer.output) else []

    def _of_op(self, node: NodeProto) -> list[str]:
        outputs = self._outputs(node)
        if not outputs or any(name not in self._useful for name in outputs):
            return []
        if not all(self._view.is_private(name) for name in outputs):
            return []
        data = _data_inputs(node)
        constants = [name for name in data if self._is_constant(node, name)]
        known = self._tensors.union(constants)
        if not all(name in known for name in data):
            return []
        if len(constants) == len(data) and node.op_type != "Gather":
            return []
        self._tensors.update(constants)
        self._readers.add(node.name)
        return outputs

    def _outputs(self, node: NodeProto) -> list[str]:
        """What `node` writes if it runs in int8, after an activation that goes into it."""
        if node.op_type not in (SAME_SCALE | OWN_SCALE if self._wide else _NARROW):
            return []
        outputs = [name for name in node.output if name]
        follower = self._view.sole_consumer(outputs[0]) if len(outputs) == 1 else None
        if self._wide and node.op_type in OWN_SCALE and follower is not None:
            return list(follower.output) if _fuses(self._view, follower) else outputs
        return outputs

    def _is_constant(self, node: NodeProto, name: str) -> bool:
        """Whether `node` may read the constant `name` as integers."""
        if not self._wide or node.op_type not in ("Add", "Mul", "Gather"):
            return False
        value = self._view.constant(name)
        return value is not None and value.dtype == np.float32 and bool(np.isfinite(value).all())

    def _flows_into(self) -> set[str]:
        """Tensors that reach a quantised one through ops that can run in int8."""
        useful = set(self._tensors)
        for node in reversed(self._view.nodes.values()):
            if useful.intersection(self._outputs(node)):
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

    def unite(members: list[str]) -> None:
        for other in members[1:]:
            parent[root(other)] = root(members[0])

    joins = []
    for node in view.nodes.values():
        if node.name not in readers or node.op_type not in SAME_SCALE:
            continue
        if node.op_type == "Concat":
            joins.append(node)
        else:
            unite([*_data_inputs(node), *(name for name in node.output if name)])
    rectified = {root(name) for name in tensors if _is_rectified(view, name)}
    for node in joins:
        # A scale shared with negative values would leave the Relu something to do: ONNX Runtime
        # could then not drop it, and would leave the layer before it in float.
        data = _data_inputs(node)
        if len({root(name) in rectified for name in data}) > 1:
            data = [name for name in data if root(name) not in rectified]
        kept = any(root(name) in rectified for name in data)
        unite([node.output[0], *data])
        if kept:
            rectified.add(root(node.output[0]))
    groups: dict[str, list[str]] = {}
    for name in sorted(tensors):
        groups.setdefault(root(name), []).append(name)
    return tuple(sorted(tuple(members) for members in groups.values()))


def _is_rectified(view: GraphView, tensor: str) -> bool:
    node = view.nodes.get(view.producer.get(tensor, ""))
    return node is not None and node.op_type in FUSED_ACTIVATIONS
