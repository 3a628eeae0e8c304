"""Even out the channels between two layers, so that one scale serves them all better.

Where only a function f with f(s·x) = s·f(x) for s > 0 stands between two layers, channel c of the
first may be divided by s[c] and the weights of the second that read it multiplied by s[c]: the
function stays (Nagel et al., *Data-free quantization through weight equalization and bias
correction*, ICCV 2019, section 4.1). A Clip has bounds that must be divided as well, a bound a
channel: ONNX's own Clip has one for all, so that Max and Min with a vector take its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from strop.techniques.folding import drop_unused_initializers
from strop.techniques.onnx_view import GraphView, attribute
from strop.techniques.quantisable import Layer, find_layers

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "PRelu"})
_PASSING = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "Identity"})
"""What keeps channels apart and scales with them."""
_FLATTENING = frozenset({"Flatten", "Reshape", "Squeeze"})
_SWEEPS = 40
_CONVERGED = 1e-3
_LARGEST = 1e4
"""Factors beyond which channels are left alone: their weights are zeros but for noise."""


@dataclass(frozen=True)
class Pair:
    """Two layers with what scales with its input between them.

    Attributes
    ----------
    first, second
        The layers; only `second` reads what `first` writes.
    clip
        Name of the Clip between them, None where there is none.
    rectified
        Whether nothing but a Relu stands between them.
    """

    first: Layer
    second: Layer
    clip: str | None
    rectified: bool


def find_pairs(view: GraphView) -> list[Pair]:
    """Every pair of layers that can be equalised, in the graph's order."""
    layers = {layer.name: layer for layer in find_layers(view)}
    pairs = []
    for layer in layers.values():
        if layer.op != "MatMul" and _owns(view, layer):
            pair = _pair(view, layers, layer)
            if pair is not None:
                pairs.append(pair)
    return pairs


def equalise(model: ModelProto) -> ModelProto:
    """A copy of `model` that computes the same with evener channels where `find_pairs` says.

    Each channel's factor is √(r₁/r₂) of its greatest weights before and after; chains of pairs
    are swept until the factors settle. All in float64.
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    view = GraphView(result)
    pairs = find_pairs(view)
    weights = {
        layer.name: _weight(view, layer) for pair in pairs for layer in (pair.first, pair.second)
    }
    factors = {pair.first.name: np.ones(_channels(pair, weights)) for pair in pairs}
    for _ in range(_SWEEPS):
        furthest = 0.0
        for pair in pairs:
            before = _greatest(weights[pair.first.name], pair.first)
            after = _greatest_read(weights[pair.second.name], pair.second)
            usable = (before > 0) & (after > 0)
            step = np.sqrt(np.divide(before, after, out=np.ones_like(before), where=usable))
            total = np.clip(factors[pair.first.name] * step, 1 / _LARGEST, _LARGEST)
            step = total / factors[pair.first.name]
            factors[pair.first.name] = total
            _scale(weights[pair.first.name], pair.first, 1 / step)
            _scale_read(weights[pair.second.name], pair.second, step)
            furthest = max(furthest, float(np.abs(np.log(step)).max()))
        if furthest < _CONVERGED:
            break
    layers = {layer.name: layer for pair in pairs for layer in (pair.first, pair.second)}
    for name, layer in layers.items():
        _set(result, view.nodes[name], 1, f"{layer.weight}:equalised", weights[name])
    for pair in pairs:
        factor = factors[pair.first.name]
        bias = None if pair.first.bias is None else view.constant(pair.first.bias)
        if bias is not None and pair.first.bias is not None:
            scaled = bias.reshape(-1) / factor
            node = view.nodes[pair.first.name]
            _set(result, node, 2, f"{pair.first.name}:equalised_bias", scaled)
    _bound_channels(result, view, pairs, factors)
    drop_unused_initializers(result)
    return result


def absorb(model: ModelProto, lows: Mapping[str, np.ndarray]) -> ModelProto:
    """Move what a channel always carries from its bias to the biases behind (section 4.1.3).

    relu(x) = relu(x − c) + c wherever x ≥ c, and what the second layer makes of c is a constant.
    The paper takes c three deviations below the batch normalisation's mean; here c is the least
    value that was observed, which needs no normalisation in the file and keeps every observed
    number. Second layers that pad are left alone: what they pad with would have to be −c.

    Parameters
    ----------
    lows
        float[channels], the least value that each first layer writes, by its `raw_output`
        (:func:`absorbable` names them).
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    view = GraphView(result)
    for pair in absorbable(view):
        carried = np.maximum(lows[pair.first.raw_output].astype(np.float64), 0)
        # Not the pair's own names: the first may have been the second of an earlier pair.
        biases = [
            view.constant(view.nodes[layer.name].input[2]) for layer in (pair.first, pair.second)
        ]
        if biases[0] is None or biases[1] is None or not carried.any():
            continue
        moved = _grouped(_weight(view, pair.second), pair.second).sum(axis=3)
        added = np.einsum("goi,gi->go", moved, carried.reshape(moved.shape[0], -1)).reshape(-1)
        for layer, value in (
            (pair.first, biases[0].reshape(-1) - carried),
            (pair.second, biases[1].reshape(-1) + added),
        ):
            _set(result, view.nodes[layer.name], 2, f"{layer.name}:absorbed_bias", value)
        view = GraphView(result)
    drop_unused_initializers(result)
    return result


def absorbable(view: GraphView) -> list[Pair]:
    """The pairs with a Relu alone between them, biases on both sides and no padding."""
    return [
        pair
        for pair in find_pairs(view)
        if pair.rectified
        and pair.first.bias is not None
        and pair.second.bias is not None
        and not any(attribute(view.nodes[pair.second.name], "pads", []))
        and attribute(view.nodes[pair.second.name], "auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    ]


def _pair(view: GraphView, layers: Mapping[str, Layer], first: Layer) -> Pair | None:
    tensor, clip = first.raw_output, None
    between: list[str] = []
    flat = first.op == "Gemm"
    while True:
        node = view.sole_consumer(tensor)
        if node is None:
            return None
        if node.name in layers:
            break
        if node.op_type == "Clip" and clip is None and not between and _bounds(view, node):
            clip = node.name
        elif node.op_type in _FLATTENING:
            # Only of single positions: elsewhere channels and positions would be mixed up.
            if any(size != 1 for size in view.shapes.get(tensor, (0, 0, 0))[2:]):
                return None
            flat = True
        elif node.op_type not in _HOMOGENEOUS | _PASSING:
            return None
        computed = [name for name in node.input[1:] if name and view.constant(name) is None]
        if node.input[0] != tensor or computed:
            return None
        between.append(node.op_type)
        tensor = node.output[0]
    second = layers[node.name]
    # A matrix product reads channels where they are the last axis: behind a Gemm or flattened.
    if second.data != tensor or flat != (second.op != "Conv") or not _owns(view, second):
        return None
    written = _weight(view, first).shape[first.channel_axis]
    if _greatest_read(_weight(view, second), second).size != written:
        return None
    return Pair(first, second, clip, between == ["Relu"])


def _owns(view: GraphView, layer: Layer) -> bool:
    return len(view.consumers[layer.weight]) == 1 and view.is_private(layer.weight)


def _bounds(view: GraphView, node: NodeProto) -> tuple[float, float] | None:
    """A Clip's bounds; None where they are computed or shut out zero."""
    limits = [-np.inf, np.inf]
    for slot, name in enumerate(node.input[1:3]):
        if name:
            value = view.constant(name)
            if value is None:
                return None
            limits[slot] = float(value)
    for slot, name in enumerate(("min", "max")):  # attributes before opset 11
        limits[slot] = float(attribute(node, name, limits[slot]))
    return (limits[0], limits[1]) if limits[0] <= 0 <= limits[1] else None


def _bound_channels(
    model: ModelProto,
    view: GraphView,
    pairs: Sequence[Pair],
    factors: Mapping[str, np.ndarray],
) -> None:
    """Max and Min with a bound a channel instead of each Clip."""
    from onnx import helper, numpy_helper

    instead: dict[str, list[NodeProto]] = {}
    for pair in pairs:
        if pair.clip is None:
            continue
        node = view.nodes[pair.clip]
        bounds = _bounds(view, node)
        assert bounds is not None
        rank = len(view.initializers[pair.first.weight].dims)
        along = [1, -1, *[1] * (rank - 2)]
        tensor, nodes = node.input[0], []
        for op, bound in zip(("Max", "Min"), bounds, strict=True):
            if not np.isfinite(bound):
                continue
            output = f"{node.output[0]}:{op}"
            if op == "Max" and bound == 0:
                nodes.append(helper.make_node("Relu", [tensor], [output], f"{node.name}:{op}"))
            else:
                limits = np.float32(bound / factors[pair.first.name]).reshape(along)
                name = f"{output}:bounds"
                model.graph.initializer.append(numpy_helper.from_array(limits, name))
                nodes.append(helper.make_node(op, [tensor, name], [output], f"{node.name}:{op}"))
            tensor = output
        if not nodes:
            nodes.append(helper.make_node("Identity", [tensor], [""], f"{node.name}:none"))
        nodes[-1].output[0] = node.output[0]
        instead[pair.clip] = nodes
    ordered = [other for node in model.graph.node for other in instead.get(node.name, [node])]
    copies = [type(node).FromString(node.SerializeToString()) for node in ordered]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _weight(view: GraphView, layer: Layer) -> np.ndarray:
    weight = view.constant(view.nodes[layer.name].input[1])
    assert weight is not None
    return weight.astype(np.float64)


def _channels(pair: Pair, weights: Mapping[str, np.ndarray]) -> int:
    return int(weights[pair.first.name].shape[pair.first.channel_axis])


def _greatest(weight: np.ndarray, layer: Layer) -> np.ndarray:
    """The greatest weight of each channel that a layer writes."""
    others = tuple(axis for axis in range(weight.ndim) if axis != layer.channel_axis)
    greatest: np.ndarray = np.abs(weight).max(axis=others)
    return greatest


def _greatest_read(weight: np.ndarray, layer: Layer) -> np.ndarray:
    """The greatest weight that meets each channel that a layer reads."""
    greatest: np.ndarray = np.abs(_grouped(weight, layer)).max(axis=(1, 3)).reshape(-1)
    return greatest


def _grouped(weight: np.ndarray, layer: Layer) -> np.ndarray:
    """A view [groups, outputs of a group, inputs of a group, positions]."""
    if layer.op != "Conv":
        rows = weight.T if layer.channel_axis == 1 else weight
        return rows[None, :, :, None]
    outputs, inputs = weight.shape[:2]
    return weight.reshape(layer.groups, outputs // layer.groups, inputs, -1)


def _scale(weight: np.ndarray, layer: Layer, factors: np.ndarray) -> None:
    weight *= factors.reshape([-1 if i == layer.channel_axis else 1 for i in range(weight.ndim)])


def _scale_read(weight: np.ndarray, layer: Layer, factors: np.ndarray) -> None:
    grouped = _grouped(weight, layer)
    grouped *= factors.reshape(grouped.shape[0], 1, grouped.shape[2], 1)


def _set(model: ModelProto, node: NodeProto, slot: int, name: str, value: np.ndarray) -> None:
    from onnx import numpy_helper

    model.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    node.input[slot] = name
