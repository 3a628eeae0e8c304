"""Operators that take axes away: reductions, extremes, softmax, sorting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from strop.models.onnx_ops.builder import Builder, Call, Value, operator


def _product(x: torch.Tensor, axes: Sequence[int], keepdim: bool) -> torch.Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keepdim=keepdim)
    return x


def _norm1(x: torch.Tensor, axes: Sequence[int], keepdim: bool) -> torch.Tensor:
    return x.abs().sum(list(axes), keepdim=keepdim)


def _norm2(x: torch.Tensor, axes: Sequence[int], keepdim: bool) -> torch.Tensor:
    result: torch.Tensor = torch.linalg.vector_norm(x, 2, list(axes), keepdim=keepdim)
    return result


def _sum_square(x: torch.Tensor, axes: Sequence[int], keepdim: bool) -> torch.Tensor:
    return (x * x).sum(list(axes), keepdim=keepdim)


def _log_sum(x: torch.Tensor, axes: Sequence[int], keepdim: bool) -> torch.Tensor:
    return x.sum(list(axes), keepdim=keepdim).log()


def _sum(x: torch.Tensor, axes: Sequence[int], keepdim: bool) -> torch.Tensor:
    return x.sum(list(axes), keepdim=keepdim, dtype=x.dtype)  # integers would become int64


def _variance(x: torch.Tensor, axes: Sequence[int], keepdim: bool) -> torch.Tensor:
    # As a mean of squares, which exports to what it is; `torch.var` does so with other factors.
    return (x - x.mean(list(axes), keepdim=True)).square().mean(list(axes), keepdim=keepdim)


_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceL1": _norm1,
    "ReduceL2": _norm2,
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": torch.logsumexp,
    "ReduceMax": torch.amax,
    "ReduceMean": torch.mean,
    "ReduceMin": torch.amin,
    "ReduceProd": _product,
    "ReduceSum": _sum,
    "ReduceSumSquare": _sum_square,
    "strop.ReduceVariance": _variance,
}


@operator(*_REDUCTIONS)
def reduction(builder: Builder, call: Call) -> Value:
    x = builder.tensor(call.inputs[0])
    axes = builder.known_integers(call, 1, "axes")
    if not axes:
        if call.attributes.get("noop_with_empty_axes", 0):
            return x
        axes = list(range(builder.rank(call)))
        if not axes:
            return x
    if call.kind == "ReduceProd":
        axes = [builder.axis(call, axis) for axis in axes]
    keep = bool(call.attributes.get("keepdims", 1))
    return builder.call(_REDUCTIONS[call.kind], x, axes, keepdim=keep)


@operator("Softmax", "LogSoftmax")
def softmax(builder: Builder, call: Call) -> Value:
    axis = int(call.attributes.get("axis", -1))
    kind = nn.Softmax if call.kind == "Softmax" else nn.LogSoftmax
    return builder.layer(call, lambda: kind(axis), builder.tensor(call.inputs[0]))


@operator("ArgMax", "ArgMin")
def extreme(builder: Builder, call: Call) -> Value:
    if call.attributes.get("select_last_index", 0):
        raise call.fails("takes the last of equals")
    function = torch.argmax if call.kind == "ArgMax" else torch.argmin
    keep = bool(call.attributes.get("keepdims", 1))
    axis = int(call.attributes.get("axis", 0))
    return builder.call(function, builder.tensor(call.inputs[0]), axis, keepdim=keep)


@operator("TopK")
def top_k(builder: Builder, call: Call) -> Sequence[Value]:
    counts = builder.integers(call.inputs[1])
    if counts is None:
        raise call.fails("takes a number of values that is not constant")
    found = builder.call(
        torch.topk,
        builder.tensor(call.inputs[0]),
        counts[0],
        int(call.attributes.get("axis", -1)),
        bool(call.attributes.get("largest", 1)),
        bool(call.attributes.get("sorted", 1)),
    )
    return [builder.call(_pick, found, place) for place in (0, 1)]


@operator("CumSum")
def cumulative_sum(builder: Builder, call: Call) -> Value:
    axes = builder.known_integers(call, 1)
    if not axes:
        raise call.fails("sums along an unknown axis")
    backwards, shifted = (bool(call.attributes.get(n, 0)) for n in ("reverse", "exclusive"))
    return builder.call(_running, builder.tensor(call.inputs[0]), axes[0], backwards, shifted)


def _running(x: torch.Tensor, axis: int, backwards: bool, shifted: bool) -> torch.Tensor:
    given = x.flip(axis) if backwards else x
    total = torch.cumsum(given, axis, dtype=x.dtype)
    total = total - given if shifted else total
    return total.flip(axis) if backwards else total


def _pick(found: Sequence[torch.Tensor], place: int) -> torch.Tensor:
    return found[place]
