"""Convolution, normalisation and embedding as the layers of `torch.nn`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from strop.models.onnx_ops.builder import (
    Builder,
    Call,
    Constant,
    Value,
    fill,
    operator,
)

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_CONV_FUNCTION = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_BATCH_NORM = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_INSTANCE_NORM = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


@operator("Conv")
def conv(builder: Builder, call: Call) -> Value:
    weight, bias = call.inputs[1], call.input(2)
    shape = builder.shape(call.input_names[1])
    places = len(shape) - 2 if shape else 0
    if places not in _CONV or shape is None:
        raise call.fails(f"is of {places} dimensions")
    kernel = [int(size) for size in shape[2:] if isinstance(size, int)]
    strides = _numbers(call, "strides", places, 1)
    dilations = _numbers(call, "dilations", places, 1)
    group = int(call.attributes.get("group", 1))
    x, padding = pad_input(builder, call, kernel, strides, dilations)
    if not isinstance(weight, Constant) or not (bias is None or isinstance(bias, Constant)):
        tensors = builder.tensor(weight), builder.tensor(bias) if bias is not None else None
        return builder.call(_CONV_FUNCTION[places], x, *tensors, strides, padding, dilations, group)

    def make() -> nn.Module:
        outputs, inputs = weight.array.shape[:2]
        layer = _CONV[places](
            inputs * group,
            outputs,
            kernel,
            stride=strides,
            padding=padding,
            dilation=dilations,
            groups=group,
            bias=bias is not None,
            device="meta",
        )
        held = builder.parameter(bias) if bias is not None else None
        return fill(layer, weight=builder.parameter(weight), bias=held)

    settings = (tuple(strides), tuple(padding), tuple(dilations), group)
    return builder.layer(call, make, x, key=_shared(call, settings))


@operator("ConvTranspose")
def conv_transpose(builder: Builder, call: Call) -> Value:
    weight, bias = call.inputs[1], call.input(2)
    if not isinstance(weight, Constant) or not (bias is None or isinstance(bias, Constant)):
        raise call.fails("has a weight that is not constant")
    places = weight.array.ndim - 2
    auto = call.attributes.get("auto_pad", b"NOTSET")
    if places not in _TRANSPOSED or auto not in (b"NOTSET", b"VALID"):
        raise call.fails(f"is of {places} dimensions or pads by itself")
    if "output_shape" in call.attributes:
        raise call.fails("asks for a shape of its output")
    pads = _numbers(call, "pads", 2 * places, 0)
    symmetric = pads[:places] == pads[places:]
    group = int(call.attributes.get("group", 1))

    def make() -> nn.Module:
        inputs, outputs = weight.array.shape[:2]
        layer = _TRANSPOSED[places](
            inputs,
            outputs * group,
            weight.array.shape[2:],
            stride=_numbers(call, "strides", places, 1),
            padding=pads[:places] if symmetric else [0] * places,
            output_padding=_numbers(call, "output_padding", places, 0),
            dilation=_numbers(call, "dilations", places, 1),
            groups=group,
            bias=bias is not None,
            device="meta",
        )
        held = builder.parameter(bias) if bias is not None else None
        return fill(layer, weight=builder.parameter(weight), bias=held)

    result = builder.layer(call, make, builder.tensor(call.inputs[0]))
    if symmetric:
        return result
    return builder.call(functional.pad, result, [-pad for pad in torch_order(pads)])


@operator("BatchNormalization")
def batch_norm(builder: Builder, call: Call) -> Value:
    if call.attributes.get("training_mode", 0):
        raise call.fails("is in training mode")
    x, (scale, bias, mean, variance) = builder.tensor(call.inputs[0]), call.inputs[1:5]
    epsilon = float(call.attributes.get("epsilon", 1e-5))
    # ONNX's momentum is the part that is kept, PyTorch's the part that is new.
    momentum = 1 - float(call.attributes.get("momentum", 0.9))
    rank = len(builder.shape(call.input_names[0]) or ())
    constants = [v for v in (scale, bias, mean, variance) if isinstance(v, Constant)]
    if len(constants) < 4 or rank not in _BATCH_NORM:
        tensors = [builder.tensor(value) for value in (mean, variance, scale, bias)]
        return builder.call(functional.batch_norm, x, *tensors, False, momentum, epsilon)

    def make() -> nn.Module:
        weights = [builder.parameter(constant) for constant in constants]
        layer = _BATCH_NORM[rank](len(weights[0]), epsilon, momentum, device="meta")
        return fill(
            layer,
            weight=weights[0],
            bias=weights[1],
            running_mean=weights[2],
            running_var=weights[3],
            num_batches_tracked=torch.tensor(0),
        )

    return builder.layer(call, make, x)


@operator("InstanceNormalization")
def instance_norm(builder: Builder, call: Call) -> Value:
    x, scale, bias = builder.tensor(call.inputs[0]), call.inputs[1], call.inputs[2]
    rank = builder.rank(call)
    if not isinstance(scale, Constant) or not isinstance(bias, Constant):
        raise call.fails("has a scale that is not constant")
    if rank not in _INSTANCE_NORM:
        raise call.fails(f"is of rank {rank}")
    epsilon = float(call.attributes.get("epsilon", 1e-5))
    layer = _INSTANCE_NORM[rank](scale.array.size, epsilon, affine=True, device="meta")
    fill(layer, weight=builder.parameter(scale), bias=builder.parameter(bias))
    return builder.layer(call, lambda: layer, x)


@operator("GroupNormalization")
def group_norm(builder: Builder, call: Call) -> Value:
    scale, bias = call.inputs[1], call.inputs[2]
    if not isinstance(scale, Constant) or not isinstance(bias, Constant):
        raise call.fails("has a scale that is not constant")
    layer = nn.GroupNorm(
        int(call.attributes["num_groups"]),
        scale.array.size,
        float(call.attributes.get("epsilon", 1e-5)),
        device="meta",
    )
    fill(layer, weight=builder.parameter(scale), bias=builder.parameter(bias))
    return builder.layer(call, lambda: layer, builder.tensor(call.inputs[0]))


@operator("LayerNormalization")
def layer_norm(builder: Builder, call: Call) -> Value:
    if any(builder.is_read(name) for name in call.output_names[1:]):
        raise call.fails("gives its mean and deviation, which PyTorch's does not")
    x, scale, bias = builder.tensor(call.inputs[0]), call.inputs[1], call.input(2)
    epsilon = float(call.attributes.get("epsilon", 1e-5))
    rank = builder.rank(call)
    axes = rank - builder.axis(call, int(call.attributes.get("axis", -1)))
    plain = isinstance(scale, Constant) and (bias is None or isinstance(bias, Constant))
    if not plain or not isinstance(scale, Constant) or scale.array.ndim != axes:
        return builder.call(
            _normalise,
            x,
            axes,
            epsilon,
            builder.tensor(scale),
            builder.tensor(bias) if bias is not None else None,
        )

    def make() -> nn.Module:
        layer = nn.LayerNorm(scale.array.shape, epsilon, bias=bias is not None, device="meta")
        held = builder.parameter(bias) if isinstance(bias, Constant) else None
        return fill(layer, weight=builder.parameter(scale), bias=held)

    return builder.layer(call, make, x)


def embedding(builder: Builder, call: Call, table: Constant, rows: fx.Node) -> fx.Node:
    """A lookup of rows in a table that the network has learned."""

    def make() -> nn.Module:
        count, width = table.array.shape
        layer = nn.Embedding(count, width, device="meta")
        return fill(layer, weight=builder.parameter(table))

    named = Call(call.kind, call.name, (), ("", call.input_names[0]), (), {})
    return builder.layer(named, make, rows, key=_shared(named, ()))


def pad_input(
    builder: Builder,
    call: Call,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    value: float = 0.0,
) -> tuple[fx.Node, list[int]]:
    """The input, padded where PyTorch's layers cannot, and what is left for the layer to pad."""
    places = len(kernel)
    x = builder.tensor(call.inputs[0])
    auto = call.attributes.get("auto_pad", b"NOTSET")
    pads = [0] * (2 * places)
    if auto == b"NOTSET":
        pads = _numbers(call, "pads", 2 * places, 0)
    elif auto in (b"SAME_UPPER", b"SAME_LOWER"):
        upper = auto == b"SAME_UPPER"
        if any(stride > 1 for stride in strides):
            spans = [
                dilation * (size - 1) for size, dilation in zip(kernel, dilations, strict=True)
            ]
            padded = builder.call(_pad_same, x, spans, list(strides), upper, value)
            return padded, [0] * places
        for place, (size, dilation) in enumerate(zip(kernel, dilations, strict=True)):
            less, more = dilation * (size - 1) // 2, -(-dilation * (size - 1) // 2)
            pads[place], pads[places + place] = (less, more) if upper else (more, less)
    if pads[:places] == pads[places:]:
        return x, pads[:places]
    return builder.call(functional.pad, x, torch_order(pads), value=value), [0] * places


def torch_order(pads: Sequence[int]) -> list[int]:
    """ONNX's pads (all starts, then all ends) as PyTorch's (a pair an axis, the last first)."""
    places = len(pads) // 2
    pairs = [(pads[place], pads[places + place]) for place in reversed(range(places))]
    return [pad for pair in pairs for pad in pair]


def _numbers(call: Call, name: str, count: int, default: int) -> list[int]:
    return [int(item) for item in call.attributes.get(name, [default] * count)]


def _shared(call: Call, settings: Any) -> Any:
    """What two calls of one layer have in common; for layers of matrices (see `parameter`)."""
    names = call.input_names[1:]
    return (call.kind, names, settings) if all(names) else None


def _pad_same(
    x: torch.Tensor, spans: Sequence[int], strides: Sequence[int], upper: bool, value: float
) -> torch.Tensor:
    """Padding by which the output has ⌈size / stride⌉ places (``auto_pad = SAME_*``)."""
    pads: list[int] = []
    for axis in reversed(range(len(spans))):
        size, stride = x.shape[axis + 2], strides[axis]
        total = max((-(-size // stride) - 1) * stride + spans[axis] + 1 - size, 0)
        less = total // 2
        pads += [less, total - less] if upper else [total - less, less]
    return functional.pad(x, pads, value=value)


def _normalise(
    x: torch.Tensor, axes: int, epsilon: float, scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    result = functional.layer_norm(x, x.shape[-axes:], eps=epsilon) * scale
    return result if bias is None else result + bias
