"""A graph that rounds in float where its integer version will, with steps that are learned.

Esser et al., *Learned step size quantization* (ICLR 2020, arXiv:1902.08153); activations with a
learned zero point as well, as in Bhalgat et al., *LSQ+* (2020, arXiv:2004.09576). Steps are
learned as logarithms, so that a learning rate means the same for all of them. Imports torch, so
import it late.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from strop.errors import NotApplicable
from strop.models.onnx_converter import to_module
from strop.models.onnx_ops.builder import Builder, Call, Value
from strop.techniques.onnx_view import GraphView
from strop.techniques.qdq import (
    Ranges,
    Rounded,
    affine,
    quantise_weight,
    shared_ranges,
    weight_scales,
    write_qdq,
)
from strop.techniques.quantisable import Layer, Plan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto


class FakeQuantised:
    """A float graph as a module that rounds weights and activations as :func:`write_qdq` would.

    The module is made of the very graph that is written in the end, so that both round at the
    same places: quantise-dequantise pairs become :class:`ActivationStep`, and the weights of the
    plan's layers pass through :class:`WeightStep`. Only those layers and the steps are trained.

    Parameters
    ----------
    network
        Prepared by :func:`strop.techniques.folding.prepare`: batch normalisation is folded, and
        what is left of it stays as it is in training too.
    plan
        Which layers and tensors are rounded.
    ranges
        (low, high) of every tensor of the plan, to begin with.
    bits
        Of the weights.
    scales
        float32[channels], the step of each layer's weights to begin with, by layer name; from the
        greatest weights where it is missing.

    Attributes
    ----------
    module
        To be trained; called as :func:`strop.models.onnx_converter.form_of` says.
    """

    def __init__(
        self,
        network: ModelProto,
        plan: Plan,
        ranges: Ranges,
        *,
        bits: int = 8,
        scales: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._network, self._plan, self._bits = network, plan, bits
        self._view = GraphView(network)
        bounds = shared_ranges(plan, ranges)
        self._activations = {group: ActivationStep(*bounds[group[0]]) for group in plan.groups}
        activations_alone = dataclasses.replace(plan, layers=())
        marked = write_qdq(network, activations_alone, ranges, {})
        translations = {"QuantizeLinear": self._round, "DequantizeLinear": _pass}
        self.module: fx.GraphModule = to_module(marked, check=False, translations=translations)
        self.module.requires_grad_(False)
        self._layers = {layer.name: self._find(layer) for layer in plan.layers}
        for layer in plan.layers:
            self._prepare(layer, (scales or {}).get(layer.name))
        for step in self._activations.values():
            step.requires_grad_(True)

    def ranges(self) -> dict[str, tuple[float, float]]:
        """(low, high) of every tensor of the plan, as learned."""
        found = {}
        for group, step in self._activations.items():
            low, high = (float(side.detach()) for side in step.bounds())
            found.update(dict.fromkeys(group, (low, high)))
        return found

    def export(self) -> ModelProto:
        """The integer graph, with the weights and the steps that were learned."""
        ranges = self.ranges()
        network = self._trained()
        view = GraphView(network)
        rounded = {}
        for layer in self._plan.layers:
            weight = view.constant(layer.weight)
            assert weight is not None
            step = self._layers[layer.name].parametrizations.weight[0]
            scales = _wide_enough(step.scales().detach().cpu().numpy(), layer, view, ranges)
            stored = quantise_weight(weight, scales, layer.channel_axis, bits=self._bits)
            rounded[layer.name] = Rounded(stored, scales)
        return write_qdq(network, self._plan, ranges, rounded)

    def _round(self, builder: Builder, call: Call) -> Value:
        """The translation of QuantizeLinear: round and give back what integers stand for."""
        tensor = call.input_names[1].removesuffix(":scale")
        group = next(group for group in self._plan.groups if tensor in group)
        step = self._activations[group]
        named = Call(call.kind, f"step/{tensor}", (), (), (), {})
        return builder.layer(named, lambda: step, builder.tensor(call.inputs[0]), key=group)

    def _find(self, layer: Layer) -> nn.Module:
        """Torch's layer for a layer of the plan."""
        names = {layer.raw_output}
        follower = self._view.sole_consumer(layer.raw_output)
        if layer.op == "MatMul" and follower is not None:
            names.update(follower.output)  # the converter takes a bias that is added into it
        for node in self.module.graph.nodes:
            if node.op == "call_module" and node.meta.get("onnx") in names:
                found = self.module.get_submodule(node.target)
                if isinstance(found, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
                    return found
        raise NotApplicable(f"the layer '{layer.name}' cannot be trained in PyTorch")

    def _prepare(self, layer: Layer, scales: np.ndarray | None) -> None:
        module = self._layers[layer.name]
        if parametrize.is_parametrized(module):
            return  # two products that share weight and bias are one layer in torch
        weight = self._view.constant(layer.weight)
        assert weight is not None
        if scales is None:
            scales = weight_scales(weight, layer.channel_axis, bits=self._bits)
        step = WeightStep(scales, self._bits)
        # torch has the output channels of all these layers first.
        parametrize.register_parametrization(module, "weight", step)
        if layer.bias is not None and module.bias is not None:
            group = next(group for group in self._plan.groups if layer.data in group)
            bias = BiasStep(self._activations[group], step)
            parametrize.register_parametrization(module, "bias", bias)
        module.requires_grad_(True)

    def _trained(self) -> ModelProto:
        """The float graph with the layers' weights as they are now, before rounding."""
        from onnx import ModelProto, numpy_helper

        values: dict[str, Tensor] = {}
        for layer in self._plan.layers:
            module = self._layers[layer.name]
            weight = module.parametrizations.weight.original
            values[layer.weight] = weight.T if layer.channel_axis == 1 else weight
            bias = layer.bias or self._added(layer)
            if bias is not None and module.bias is not None:
                rounded = parametrize.is_parametrized(module, "bias")
                values[bias] = module.parametrizations.bias.original if rounded else module.bias
        result = ModelProto()
        result.CopyFrom(self._network)
        for entry in result.graph.initializer:
            if entry.name in values:
                array = values[entry.name].detach().cpu().numpy()
                array = array.reshape(tuple(entry.dims))
                entry.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), entry.name))
        return result

    def _added(self, layer: Layer) -> str | None:
        """The constant that is added to a product."""
        follower = self._view.sole_consumer(layer.raw_output)
        if layer.op != "MatMul" or follower is None or follower.op_type != "Add":
            return None
        return next((name for name in follower.input if name in self._view.initializers), None)


class ActivationStep(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """Rounds a tensor to 256 steps between two learned bounds; zero stays exact.

    A bound that is 0 stays 0: what comes after a ReLU.
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        low, high = min(low, 0.0), max(high, 0.0)
        if low == high:
            high = 1.0
        self.register_buffer("low", torch.tensor([low], dtype=torch.float32))
        self.register_buffer("high", torch.tensor([high], dtype=torch.float32))
        self.growth = nn.Parameter(torch.zeros(2))
        self._shifted = low < 0

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Low and high, float32[1] each."""
        factors = self.growth.exp()
        return self.low * factors[:1], self.high * factors[1:]

    def forward(self, x: Tensor) -> Tensor:
        """`x`, rounded; float32."""
        low, high = self.bounds()
        scale = (high - low) / 255
        zero = _rounded(-low / scale) if self._shifted else torch.zeros_like(scale)
        x = x.float()
        by_parts = x.device.type == "cpu" and _layout(x) is not None
        kind = _RoundByParts if by_parts else _Round
        rounded: Tensor = kind.apply(x, scale, zero, 0, 255)
        return rounded


class WeightStep(nn.Module):  # type: ignore[misc]
    """Rounds a weight to symmetric integers with one learned step for each row of dimension 0."""

    def __init__(self, scales: np.ndarray, bits: int) -> None:
        super().__init__()
        self.register_buffer("start", torch.from_numpy(np.array(scales, np.float32)))
        self.growth = nn.Parameter(torch.zeros(len(scales)))
        self._limit = 2 ** (bits - 1) - 1

    def scales(self) -> Tensor:
        """float32[channels]."""
        return self.start * self.growth.exp()

    def forward(self, weight: Tensor) -> Tensor:
        """`weight`, rounded; float32 of the same shape."""
        scale = self.scales().reshape(-1, *[1] * (weight.ndim - 1))
        zero = torch.zeros((), device=weight.device)
        rounded: Tensor = _Round.apply(weight, scale, zero, -self._limit, self._limit)
        return rounded


class BiasStep(nn.Module):  # type: ignore[misc]
    """Rounds a bias as integer kernels hold it: in units of the input's step times the weight's.

    One such unit is small, yet it moves every sum of its channel by the same amount. Left out, some
    values in a thousand fall to the other side of a rounding edge, and fifty layers later outputs
    differ by several hundredths.
    """

    def __init__(self, data: ActivationStep, weight: WeightStep) -> None:
        super().__init__()
        self._steps = (data, weight)  # a tuple, for they are other modules' children

    def forward(self, bias: Tensor) -> Tensor:
        """`bias`, rounded; float32 of the same shape. The gradient passes to the bias alone."""
        data, weight = self._steps
        with torch.no_grad():
            low, high = data.bounds()
            unit = weight.scales().double() * ((high - low) / 255).double()
            error = (torch.round(bias.double() / unit) * unit - bias.double()).to(bias.dtype)
        return bias + error


class _Round(torch.autograd.Function):  # type: ignore[misc]
    """``(clip(round(x / scale) + zero) − zero) · scale`` with straight-through gradients.

    Written out, because autograd over the single steps takes three times as long. The gradient
    of the scale is divided by √(values · levels) (section 2.2 of the paper).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
        ratio = x / scale
        stored = torch.round(ratio).add_(zero)
        clipped = stored.clamp(low, high)
        inside = stored == clipped
        value = clipped.sub_(zero)
        # What the scale multiplies: the rounding error inside, the bound outside.
        by_scale = torch.where(inside, value - ratio, value)
        ctx.save_for_backward(by_scale, inside, scale, zero)
        ctx.weight = 1 / math.sqrt(max(x.numel() / scale.numel(), 1) * max(high, 1))
        return value * scale

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        by_scale, inside, scale, zero = ctx.saved_tensors
        passed = gradient * inside
        to_scale = _sum_to(by_scale * gradient, scale) * ctx.weight
        to_zero = None
        if ctx.needs_input_grad[2]:
            to_zero = (_sum_to(passed, zero) - _sum_to(gradient, zero)) * scale * ctx.weight
        return passed, to_scale, to_zero, None, None


class _RoundByParts(torch.autograd.Function):  # type: ignore[misc]
    """`_Round` for one scale, on parts of `x` that stay in a core's cache from step to step.

    Whole activations would go through memory some ten times, which takes three times as long;
    and what `_Round` keeps for the backward pass is computed again instead.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
        ctx.save_for_backward(x, scale, zero)
        ctx.bounds = low, high
        step, shift = float(scale), float(zero)
        result = torch.empty_like(x)  # of the same layout
        for part, out in zip(_parts(x), _parts(result), strict=True):
            torch.div(part, step, out=out)
            out.round_().clamp_(low - shift, high - shift).mul_(step)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, zero = ctx.saved_tensors
        (low, high), step, shift = ctx.bounds, float(scale), float(zero)
        passed = torch.empty_like(x)
        held = x.new_empty(2, min(x.numel(), _PART))
        by_scale = by_zero = 0.0
        gradient = gradient.contiguous(memory_format=_layout(x))
        parts = zip(_parts(x), _parts(gradient), _parts(passed), strict=True)
        for part, slope, out in parts:
            ratio, value = held[:, : part.numel()]
            torch.div(part, step, out=ratio)
            torch.round(ratio, out=value)
            inside = (value >= low - shift) & (value <= high - shift)
            torch.mul(slope, inside, out=out)
            # The rounding error inside, the bound outside, as `_Round` has it.
            value.clamp_(low - shift, high - shift).sub_(ratio.mul_(inside))
            by_scale += float(torch.dot(value, slope))
            by_zero += float(out.sum() - slope.sum())
        weight = 1 / math.sqrt(max(x.numel(), 1) * max(high, 1))
        to_scale = torch.full_like(scale, by_scale * weight)
        to_zero = torch.full_like(zero, by_zero * step * weight)
        return passed, to_scale, to_zero if ctx.needs_input_grad[2] else None, None, None


_PART = 1 << 17
"""Values of half a megabyte."""


def _layout(x: Tensor) -> Any:
    """The order in which `x` fills its memory, where it does; None where there are gaps."""
    if x.is_contiguous():
        return torch.contiguous_format
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return None


def _parts(x: Tensor) -> tuple[Tensor, ...]:
    """Views of `x` in the order of memory."""
    flat = x if x.is_contiguous() else x.permute(0, 2, 3, 1)
    parts: tuple[Tensor, ...] = flat.view(-1).split(_PART)
    return parts


def _sum_to(value: Tensor, like: Tensor) -> Tensor:
    if like.numel() == 1:
        return value.sum().reshape(like.shape)
    axes = [axis for axis, size in enumerate(like.shape) if size == 1]
    return value.sum(axes, keepdim=True) if axes else value


def _pass(builder: Builder, call: Call) -> Value:
    """The translation of DequantizeLinear: :class:`ActivationStep` has done its work already."""
    return builder.tensor(call.inputs[0])


def _rounded(x: Tensor) -> Tensor:
    """Rounded half to even; the gradient passes through."""
    return x + (torch.round(x) - x).detach()


def _wide_enough(scales: np.ndarray, layer: Layer, view: GraphView, ranges: Ranges) -> np.ndarray:
    """Steps such that the bias, in units of both steps, fits the int32 that holds it."""
    bias = None if layer.bias is None else view.constant(layer.bias)
    if bias is None:
        return scales
    step = float(affine(*ranges[layer.data]).scale)
    least = np.abs(bias.reshape(-1)) / (step * 2.0**30)
    wide: np.ndarray = np.maximum(scales, least.astype(np.float32))
    return wide
