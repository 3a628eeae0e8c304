"""Write a float graph as a quantise-dequantise graph, and the arithmetic of its scales.

Weights are int8, symmetric, one scale an output channel; activations uint8, asymmetric, one scale
a tensor; biases int32 with the product of the two scales, as integer kernels add them. See Jacob
et al., *Quantization and training of neural networks for efficient integer-arithmetic-only
inference* (CVPR 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from strop.techniques.adaround import adaptive
from strop.techniques.folding import drop_unused_initializers
from strop.techniques.onnx_view import GraphView
from strop.techniques.quantisable import FUSED_ACTIVATIONS, Layer, Plan
from strop.techniques.rounding import compensated

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Ranges = Mapping[str, tuple[float, float]]


class Affine(NamedTuple):
    """``real = (stored - zero_point) * scale`` for uint8."""

    scale: np.float32
    zero_point: np.uint8

    def stored(self, real: np.ndarray) -> np.ndarray:
        """uint8, rounded half to even and clipped, as QuantizeLinear has it."""
        scaled = np.round(real / self.scale) + np.float32(self.zero_point)
        stored: np.ndarray = np.clip(scaled, 0, 255).astype(np.uint8)
        return stored


def affine(low: float, high: float) -> Affine:
    """The uint8 scale that represents [low, high] and zero exactly.

    Examples
    --------
    >>> affine(0.0, 6.0).zero_point, round(float(affine(-1.0, 1.0).scale), 5)
    (np.uint8(0), 0.00784)
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / 255)
    if not np.isfinite(scale) or scale < np.finfo(np.float32).tiny:
        return Affine(np.float32(1), np.uint8(0))
    return Affine(scale, np.uint8(np.clip(np.round(-low / float(scale)), 0, 255)))


def weight_scales(weight: np.ndarray, axis: int, *, bits: int = 8) -> np.ndarray:
    """float32[channels]: the greatest magnitude of each channel over the greatest integer.

    `bits` 7 leaves headroom for the saturating 16-bit sums of CPUs without VNNI.
    """
    others = tuple(index for index in range(weight.ndim) if index != axis)
    greatest = np.abs(weight).max(axis=others).astype(np.float32)
    scales: np.ndarray = np.asarray(greatest / np.float32(2 ** (bits - 1) - 1))
    scales[scales < np.finfo(np.float32).tiny] = 1
    return scales


def quantise_weight(
    weight: np.ndarray, scales: np.ndarray, axis: int, *, bits: int = 8
) -> np.ndarray:
    """int8, rounded half to even and clipped to the symmetric range."""
    limit = 2 ** (bits - 1) - 1
    scaled = weight / scales.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    stored: np.ndarray = np.clip(np.round(scaled), -limit, limit).astype(np.int8)
    return stored


class Rounded(NamedTuple):
    """A layer's weights as integers.

    `stored` is int8 of the weight's shape, `scales` float32[channels].
    """

    stored: np.ndarray
    scales: np.ndarray


def round_weights(
    model: ModelProto,
    plan: Plan,
    ranges: Ranges,
    *,
    bits: int = 8,
    covariances: Mapping[str, np.ndarray] | None = None,
    learned: bool = False,
    deadline: float | None = None,
) -> dict[str, Rounded]:
    """The integer weights of every layer of `plan`, by layer name.

    Layers named in `covariances` (see :mod:`strop.techniques.rounding`) are rounded for the
    least change of their output, by GPTQ or, where `learned`, by AdaRound; the others to nearest.
    """
    view = GraphView(model)
    bounds = shared_ranges(plan, ranges)
    result = {}
    for layer in plan.layers:
        weight = view.constant(layer.weight)
        assert weight is not None
        scales = weight_scales(weight, layer.channel_axis, bits=bits)
        bias = None if layer.bias is None else view.constant(layer.bias)
        if bias is not None:
            # A channel of tiny weights with a bias must not overflow the int32 that holds it.
            step = float(affine(*bounds[layer.data]).scale)
            least = np.abs(bias.reshape(-1)) / (step * 2.0**30)
            scales = np.maximum(scales, least.astype(np.float32))
        covariance = (covariances or {}).get(layer.name)
        if covariance is None:
            stored = quantise_weight(weight, scales, layer.channel_axis, bits=bits)
        elif learned:
            stored = adaptive(weight, scales, layer, covariance, bits=bits, deadline=deadline)
        else:
            stored = compensated(weight, scales, layer, covariance, bits=bits)
        result[layer.name] = Rounded(stored, scales)
    return result


def shared_ranges(plan: Plan, ranges: Ranges) -> dict[str, tuple[float, float]]:
    """The ranges of the plan's tensors, each the union over its group."""
    result = {}
    for group in plan.groups:
        low = min(ranges[name][0] for name in group)
        high = max(ranges[name][1] for name in group)
        result.update(dict.fromkeys(group, (low, high)))
    return result


def write_qdq(
    model: ModelProto,
    plan: Plan,
    ranges: Ranges,
    rounded: Mapping[str, Rounded],
    *,
    bias_shift: Mapping[str, np.ndarray] | None = None,
) -> ModelProto:
    """`model` with quantise-dequantise pairs where `plan` says.

    Parameters
    ----------
    model
        Prepared by :func:`strop.techniques.folding.prepare`; not changed.
    ranges
        (low, high) of every tensor of the plan.
    rounded
        The integer weights of every layer of the plan (more do no harm).
    bias_shift
        float[channels] to add to the biases of layers, by layer name.
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    writer = _Writer(result)
    scales = {name: affine(*bounds) for name, bounds in shared_ranges(plan, ranges).items()}
    for layer in plan.layers:
        shift = (bias_shift or {}).get(layer.name)
        writer.weights(layer, scales[layer.data], rounded[layer.name], shift)
        writer.keep_integer(layer, plan)
    for tensor in plan.tensors:
        writer.tensor(tensor, scales[tensor], plan)
    writer.finish()
    return result


class _Writer:
    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._view = GraphView(model)
        self._names = set(self._view.producer) | set(self._view.consumers) | self._view.outputs
        self._names |= set(self._view.nodes)
        self._dequantisers: list[NodeProto] = []
        self._after: dict[str, list[NodeProto]] = {}

    def weights(
        self, layer: Layer, data: Affine, rounded: Rounded, shift: np.ndarray | None
    ) -> None:
        node = self._view.nodes[layer.name]
        bias = None if layer.bias is None else self._view.constant(layer.bias)
        if shift is not None and layer.op != "MatMul":
            bias = shift if bias is None else bias.reshape(-1) + shift
        stored, scales = rounded
        zeros = np.zeros(scales.shape, np.int8)
        node.input[1] = self._dequantised(layer.weight, stored, scales, zeros, layer.channel_axis)
        if bias is None:
            return
        product = scales * data.scale
        integers = np.round(bias.reshape(-1).astype(np.float64) / product)
        integers = np.clip(integers, -(2**31 - 1), 2**31 - 1).astype(np.int32)
        name = layer.bias or f"{layer.name}:bias"
        dequantised = self._dequantised(name, integers, product, np.zeros(product.shape, np.int32))
        if len(node.input) > 2:
            node.input[2] = dequantised
        else:
            node.input.append(dequantised)

    def keep_integer(self, layer: Layer, plan: Plan) -> None:
        """Keep ONNX Runtime from leaving a product in float for the activation behind it.

        It takes a Relu or Clip behind an integer product for a rounding it may drop, and where no
        QuantizeLinear follows it gives the whole product up and dequantises the weights in every
        call. A sum of one term between them, which is a copy, stands in the way.
        """
        from onnx import helper

        if layer.op == "Conv" or layer.output == layer.raw_output:
            return
        readers = self._view.consumers[layer.output]
        integers_alone = self._view.is_private(layer.output) and plan.readers.issuperset(readers)
        if layer.output in plan.everywhere or (layer.output in plan.tensors and integers_alone):
            return
        (follower,) = self._view.consumers[layer.raw_output]
        copy = self._fresh(f"{layer.raw_output}:product")
        name = self._fresh(f"keep:{layer.raw_output}")
        self._after.setdefault(layer.name, []).append(
            helper.make_node("Sum", [layer.raw_output], [copy], name)
        )
        self._view.nodes[follower].input[0] = copy

    def tensor(self, tensor: str, scale: Affine, plan: Plan) -> None:
        """A quantise-dequantise pair behind `tensor`; of a constant, the integers."""
        from onnx import helper

        names = [self._constant(f"{tensor}:scale", np.array(scale.scale))]
        names.append(self._constant(f"{tensor}:zero_point", np.array(scale.zero_point)))
        real = self._fresh(f"{tensor}:dequantised")
        value = self._view.constant(tensor)
        if value is None:
            integers, pair = self._fresh(f"{tensor}:quantised"), self._quantised(tensor, plan)
            pair[-1].input.extend(names)
            pair[-1].output.append(integers)
        else:
            integers, pair = self._constant(f"{tensor}:quantised", scale.stored(value)), []
        dequantise = self._fresh(f"DQ:{tensor}")
        pair.append(helper.make_node("DequantizeLinear", [integers, *names], [real], dequantise))
        self._after.setdefault(self._view.producer.get(tensor, ""), []).extend(pair)
        for reader in dict.fromkeys(self._view.consumers[tensor]):
            if tensor in plan.everywhere or reader in plan.readers:
                node = self._view.nodes[reader]
                for slot, name in enumerate(node.input):
                    if name == tensor:
                        node.input[slot] = real

    def _quantised(self, tensor: str, plan: Plan) -> list[NodeProto]:
        """QuantizeLinear of `tensor`, its scale and output yet to come, and what it needs."""
        from onnx import helper

        name = self._fresh(f"Q:{tensor}")
        if not self._is_float_layer(tensor, plan):
            return [helper.make_node("QuantizeLinear", [tensor], [], name)]
        # ONNX Runtime would quantise the float layer after all, one scale for the whole
        # weight, wherever it finds DequantizeLinear, layer, activation, QuantizeLinear
        # (its WeightBiasQuantization). A sum of one term stands in the way, at the price of
        # a copy.
        source = self._fresh(f"{tensor}:kept_float")
        return [
            helper.make_node("Sum", [tensor], [source], self._fresh(f"keep:{tensor}")),
            helper.make_node("QuantizeLinear", [source], [], name),
        ]

    def _is_float_layer(self, tensor: str, plan: Plan) -> bool:
        node = self._view.nodes.get(self._view.producer.get(tensor, ""))
        while node is not None and node.op_type in FUSED_ACTIVATIONS:
            node = self._view.nodes.get(self._view.producer.get(node.input[0], ""))
        layers = ("Conv", "ConvTranspose", "Gemm")
        return node is not None and node.op_type in layers and node.name not in plan.readers

    def finish(self) -> None:
        graph = self._model.graph
        nodes = [*self._dequantisers, *self._after.pop("", [])]
        for node in self._view.nodes.values():
            nodes.append(node)
            nodes.extend(self._after.pop(node.name, []))
        ordered = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(ordered)
        drop_unused_initializers(self._model)

    def _dequantised(
        self,
        name: str,
        stored: np.ndarray,
        scales: np.ndarray,
        zeros: np.ndarray,
        axis: int = 0,
    ) -> str:
        from onnx import helper

        inputs = [
            self._constant(f"{name}:quantised", stored),
            self._constant(f"{name}:scale", scales),
            self._constant(f"{name}:zero_point", zeros),
        ]
        output = self._fresh(f"{name}:dequantised")
        self._dequantisers.append(
            helper.make_node(
                "DequantizeLinear", inputs, [output], self._fresh("DQ:" + name), axis=axis
            )
        )
        return output

    def _constant(self, name: str, value: np.ndarray) -> str:
        from onnx import numpy_helper

        name = self._fresh(name)
        self._model.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def _fresh(self, name: str) -> str:
        unique, count = name, 1
        while unique in self._names:
            count += 1
            unique = f"{name}#{count}"
        self._names.add(unique)
        return unique
