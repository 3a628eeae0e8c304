"""Move what makes a transformer's activations hard to quantise into its weights.

A few channels of what a layer normalisation writes are tens of times wider than the rest, and one
scale must serve all. Dividing channel c by f[c] and multiplying the weights that read it by f[c]
changes nothing in float (Xiao et al., *SmoothQuant*, ICML 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from strop.techniques.onnx_view import GraphView
from strop.techniques.quantisable import Layer, find_layers

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


@dataclass(frozen=True)
class Spot:
    """One normalised tensor and the matrix products that read it.

    Attributes
    ----------
    tensor
        float32[..., channels].
    readers
        MatMul and Gemm layers whose data it is.
    foldable
        Whether those are all that reads it, so that the division can go into the normalisation's
        own scale and shift. Otherwise a Mul before the readers does it.
    """

    tensor: str
    readers: tuple[Layer, ...]
    foldable: bool


def find_spots(view: GraphView) -> list[Spot]:
    """Every tensor that comes out of a layer normalisation and goes into matrix products."""
    readers: dict[str, list[Layer]] = {}
    weights = [layer.weight for layer in find_layers(view)]
    for layer in find_layers(view):
        private = weights.count(layer.weight) == 1 and len(view.consumers[layer.weight]) == 1
        if layer.op in ("MatMul", "Gemm") and private:
            readers.setdefault(layer.data, []).append(layer)
    spots = []
    for tensor, layers in readers.items():
        producer = view.nodes.get(view.producer.get(tensor, ""))
        if producer is None or not _normalises(view, producer):
            continue
        alone = len(view.consumers[tensor]) == len(layers) and view.is_private(tensor)
        foldable = alone and producer.op_type == "LayerNormalization"
        spots.append(Spot(tensor, tuple(layers), foldable and _owns_parameters(view, producer)))
    return spots


def smooth(model: ModelProto, magnitudes: Mapping[str, np.ndarray], alpha: float) -> ModelProto:
    """A copy of `model` that computes the same with evener channels where `find_spots` says.

    Parameters
    ----------
    magnitudes
        float[channels] by tensor: the greatest absolute value of each channel.
    alpha
        How much of a channel's range moves into the weights: 0 none, 1 all.
    """
    import onnx
    from onnx import helper, numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    view = GraphView(result)
    before: dict[str, NodeProto] = {}
    for spot in find_spots(view):
        factors = channel_factors(view, spot, magnitudes[spot.tensor], alpha)
        for layer in spot.readers:
            along = [1 if axis == layer.channel_axis else -1 for axis in range(2)]
            _multiply(view, layer.weight, factors.reshape(along))
        if spot.foldable:
            for name in view.nodes[view.producer[spot.tensor]].input[1:]:
                _multiply(view, name, 1 / factors)
            continue
        divided, inverse = f"{spot.tensor}:smooth", f"{spot.tensor}:smooth_factors"
        graph = result.graph
        graph.initializer.append(numpy_helper.from_array(np.float32(1 / factors), inverse))
        node = helper.make_node("Mul", [spot.tensor, inverse], [divided], f"smooth:{spot.tensor}")
        for layer in spot.readers:
            view.nodes[layer.name].input[0] = divided
        before[view.producer[spot.tensor]] = node
    nodes = []
    for node in result.graph.node:
        nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
        if node.name in before:
            nodes.append(before[node.name])
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


def channel_factors(view: GraphView, spot: Spot, magnitude: np.ndarray, alpha: float) -> np.ndarray:
    """float64[channels]: activation range to the power `alpha` over weight range to 1 − `alpha`."""
    weights = np.zeros(magnitude.size)
    for layer in spot.readers:
        weight = view.constant(layer.weight)
        assert weight is not None
        weights = np.maximum(weights, np.abs(weight).max(axis=layer.channel_axis))
    floor = 1e-5
    widths = np.maximum(magnitude.astype(np.float64), floor)
    factors: np.ndarray = widths**alpha / np.maximum(weights, floor) ** (1 - alpha)
    return factors


def _normalises(view: GraphView, node: NodeProto) -> bool:
    """LayerNormalization, or the multiplication or addition of a constant vector that ends a
    normalisation written out in smaller ops.
    """
    if node.op_type == "LayerNormalization":
        return len(node.output) == 1
    if node.op_type not in ("Add", "Mul"):
        return False
    constants = [view.constant(name) for name in node.input]
    if not any(value is not None and value.ndim == 1 and value.size > 1 for value in constants):
        return False
    sources = [view.nodes.get(view.producer.get(name, "")) for name in node.input]
    # A bias added to a matrix product looks the same, but is no normalisation.
    return not any(s is not None and s.op_type in ("MatMul", "Gemm", "Conv") for s in sources)


def _owns_parameters(view: GraphView, node: NodeProto) -> bool:
    return all(
        name in view.initializers and len(view.consumers[name]) == 1 for name in node.input[1:]
    )


def _multiply(view: GraphView, name: str, factors: np.ndarray) -> None:
    from onnx import numpy_helper

    value = view.constant(name)
    assert value is not None
    view.initializers[name].CopyFrom(numpy_helper.from_array(np.float32(value * factors), name))
