"""Pooling and local response normalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from strop.models.onnx_ops.builder import Builder, Call, Value, operator
from strop.models.onnx_ops.layers import pad_input

_MAX = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
_AVERAGE = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
_AVERAGE_FUNCTION: dict[int, Callable[..., Any]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}


@operator("MaxPool")
def max_pool(builder: Builder, call: Call) -> Value:
    if any(builder.is_read(name) for name in call.output_names[1:]):
        raise call.fails("gives indices, which PyTorch counts another way")
    kernel, strides, dilations = _window(call)
    x, padding = pad_input(builder, call, kernel, strides, dilations, float("-inf"))
    if any(2 * pad > size for pad, size in zip(padding, kernel, strict=True)):
        pairs = [pad for pad in reversed(padding) for _ in range(2)]
        x = builder.call(functional.pad, x, pairs, value=float("-inf"))
        padding = [0] * len(kernel)
    layer = _MAX[len(kernel)](
        kernel, strides, padding, dilations, ceil_mode=bool(call.attributes.get("ceil_mode", 0))
    )
    return builder.layer(call, lambda: layer, x)


@operator("AveragePool")
def average_pool(builder: Builder, call: Call) -> Value:
    kernel, strides, dilations = _window(call)
    if any(dilation != 1 for dilation in dilations):
        raise call.fails("is dilated")
    whole = bool(call.attributes.get("count_include_pad", 0))
    ceil = bool(call.attributes.get("ceil_mode", 0))
    x, padding = pad_input(builder, call, kernel, strides, dilations)
    fits = all(2 * pad <= size for pad, size in zip(padding, kernel, strict=True))
    if x is call.inputs[0] and fits:
        layer = _AVERAGE[len(kernel)](
            kernel, strides, padding, ceil_mode=ceil, count_include_pad=whole
        )
        return builder.layer(call, lambda: layer, x)
    if x is call.inputs[0]:
        pairs = [pad for pad in reversed(padding) for _ in range(2)]
        x = builder.call(functional.pad, x, pairs)
    if whole:
        return builder.call(_AVERAGE_FUNCTION[len(kernel)], x, kernel, strides, 0, ceil)
    # Where padding does not count, the mean over the window is divided by the part inside.
    inside, _ = pad_input(
        builder,
        Call(
            call.kind,
            call.name,
            (builder.call(torch.ones_like, builder.tensor(call.inputs[0])), *call.inputs[1:]),
            call.input_names,
            call.output_names,
            call.attributes,
        ),
        kernel,
        strides,
        dilations,
    )
    return builder.call(_mean_inside, x, inside, kernel, strides, ceil)


@operator("GlobalAveragePool")
def global_average_pool(builder: Builder, call: Call) -> Value:
    # Not nn.AdaptiveAvgPool: torch's exporter writes a Gather over computed indices for it.
    axes = list(range(2, builder.rank(call)))
    return builder.call(torch.mean, builder.tensor(call.inputs[0]), axes, keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(builder: Builder, call: Call) -> Value:
    axes = list(range(2, builder.rank(call)))
    return builder.call(torch.amax, builder.tensor(call.inputs[0]), axes, keepdim=True)


@operator("LRN")
def local_response_norm(builder: Builder, call: Call) -> Value:
    size = int(call.attributes["size"])
    if size % 2 == 0:
        raise call.fails("is of an even size, which PyTorch centres another way")
    layer = nn.LocalResponseNorm(
        size,
        float(call.attributes.get("alpha", 1e-4)),
        float(call.attributes.get("beta", 0.75)),
        float(call.attributes.get("bias", 1.0)),
    )
    return builder.layer(call, lambda: layer, builder.tensor(call.inputs[0]))


def _window(call: Call) -> tuple[list[int], list[int], list[int]]:
    kernel = [int(size) for size in call.attributes["kernel_shape"]]
    if len(kernel) not in _MAX:
        raise call.fails(f"is of {len(kernel)} dimensions")
    ones = [1] * len(kernel)
    strides, dilations = (
        [int(item) for item in call.attributes.get(name, ones)] for name in ("strides", "dilations")
    )
    return kernel, strides, dilations


def _mean_inside(
    x: torch.Tensor,
    inside: torch.Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    ceil: bool,
) -> torch.Tensor:
    pool = _AVERAGE_FUNCTION[len(kernel)]
    result: torch.Tensor = pool(x, kernel, strides, 0, ceil) / pool(
        inside, kernel, strides, 0, ceil
    )
    return result
