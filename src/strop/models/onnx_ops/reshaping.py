"""Operators that move elements without changing them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from strop.models.onnx_ops.builder import Builder, Call, Constant, Ints, Value, as_tensor, operator
from strop.records import Dim


@operator("Reshape")
def reshape(builder: Builder, call: Call) -> Value:
    """Written as a merge or a split of dimensions where it is one.

    A literal shape would hold on to the number of channels, which pruning changes.
    """
    x, target = builder.tensor(call.inputs[0]), builder.integers(call.inputs[1])
    if target is None:
        return builder.call(_reshape_to, x, builder.tensor(call.inputs[1]))
    before, after = builder.shape(call.input_names[0]), builder.shape(call.output_names[0])
    copies = not call.attributes.get("allowzero", 0)
    if before is not None:
        goal = _goal(target, before, after, copies)
        change = _change(before, goal)
        if change is not None:
            start, end, sizes = change
            if start == end:
                return x if len(sizes) == 1 else builder.call(torch.unflatten, x, start, sizes)
            if len(sizes) == 1:
                return builder.call(torch.flatten, x, start, end)
    items = [
        builder.size(x, axis) if item == 0 and copies and isinstance(item, int) else item
        for axis, item in enumerate(target)
    ]
    return builder.method("reshape", x, tuple(items))


@operator("Flatten")
def flatten(builder: Builder, call: Call) -> Value:
    x, axis = builder.tensor(call.inputs[0]), int(call.attributes.get("axis", 1))
    if axis == 1:
        return builder.call(torch.flatten, x, 1) if builder.rank(call) != 1 else _column(builder, x)
    axis = builder.axis(call, axis)
    return builder.call(_flatten, x, axis)


@operator("Transpose")
def transpose(builder: Builder, call: Call) -> Value:
    order = call.attributes.get("perm")
    order = list(reversed(range(builder.rank(call)))) if order is None else list(order)
    return builder.method("permute", builder.tensor(call.inputs[0]), tuple(order))


@operator("Squeeze")
def squeeze(builder: Builder, call: Call) -> Value:
    x, axes = builder.tensor(call.inputs[0]), builder.known_integers(call, 1, "axes")
    if axes is None:
        return builder.call(torch.squeeze, x)
    return builder.call(torch.squeeze, x, tuple(axes))


@operator("Unsqueeze")
def unsqueeze(builder: Builder, call: Call) -> Value:
    value, axes = call.inputs[0], builder.known_integers(call, 1, "axes") or []
    if any(axis < 0 for axis in axes):
        rank = builder.rank(call) + len(axes)
        axes = [axis % rank for axis in axes]
    x = builder.tensor(value)
    for axis in sorted(axes):
        x = builder.call(torch.unsqueeze, x, axis)
    return x


@operator("Concat")
def concat(builder: Builder, call: Call) -> Value:
    parts = [builder.tensor(value) for value in call.inputs]
    return builder.call(torch.cat, parts, int(call.attributes["axis"]))


@operator("Expand")
def expand(builder: Builder, call: Call) -> Value:
    x, sizes = builder.tensor(call.inputs[0]), builder.integers(call.inputs[1])
    shape = builder.shape(call.input_names[0])
    if sizes is None or shape is None:
        return builder.call(_expand_to, x, builder.tensor(call.inputs[1]))
    # A 1 keeps what is there: broadcasting goes both ways.
    items: list[Any] = [-1 if item == 1 else item for item in sizes]
    items = [-1] * (len(shape) - len(items)) + items
    new = len(items) - len(shape)
    items[:new] = [1 if item == -1 else item for item in items[:new]]
    if all(item == -1 for item in items):
        return x
    return builder.method("expand", x, *items)


@operator("Tile")
def tile(builder: Builder, call: Call) -> Value:
    repeats = builder.integers(call.inputs[1])
    if repeats is None:
        raise call.fails("repeats by a number that is computed from data")
    return builder.method("repeat", builder.tensor(call.inputs[0]), *repeats)


@operator("ConstantOfShape")
def constant_of_shape(builder: Builder, call: Call) -> Value:
    from onnx import numpy_helper

    value = np.zeros(1, np.float32)
    if "value" in call.attributes:
        value = numpy_helper.to_array(call.attributes["value"])
    sizes = builder.integers(call.inputs[0])
    if sizes is None:
        raise call.fails("takes a shape that is computed from data")
    if isinstance(call.inputs[0], Ints) and len(sizes) <= 1 and value.dtype == np.int64:
        known = [size for size in sizes if isinstance(size, int)]
        if len(known) == len(sizes):
            return Constant(np.full(known, value.item()))
    dtype = as_tensor(value).dtype
    return builder.call(torch.full, list(sizes), value.item(), dtype=dtype)


@operator("DepthToSpace", "SpaceToDepth")
def blocks(builder: Builder, call: Call) -> Value:
    size = int(call.attributes["blocksize"])
    x = builder.tensor(call.inputs[0])
    if call.kind == "SpaceToDepth":
        return builder.call(_space_to_depth, x, size)
    if call.attributes.get("mode", b"DCR") == b"CRD":
        return builder.call(torch.nn.functional.pixel_shuffle, x, size)
    return builder.call(_depth_to_space, x, size)


def _goal(
    target: Sequence[int | fx.Node],
    before: Sequence[Dim],
    after: Sequence[Dim] | None,
    copies: bool,
) -> list[Dim]:
    """What is known of the new shape: sizes, symbols, None."""
    goal: list[Dim] = []
    for axis, item in enumerate(target):
        inferred = after[axis] if after is not None and len(after) == len(target) else None
        if isinstance(item, fx.Node) or item == -1:
            goal.append(inferred)
        elif item == 0 and copies:
            goal.append(before[axis])
        else:
            goal.append(item)
    free = [axis for axis, size in enumerate(goal) if not isinstance(size, int)]
    if len(free) == 1 and all(isinstance(size, int) for size in before):
        total = math.prod(size for size in before if isinstance(size, int))
        rest = math.prod(size for size in goal if isinstance(size, int))
        goal[free[0]] = total // rest if rest else None
    return goal


def _change(before: Sequence[Dim], goal: Sequence[Dim]) -> tuple[int, int, list[int]] | None:
    """The run of dimensions that changes, first and last, and its new sizes; −1 may be in them.

    Only changes that certainly are one dimension split, or several merged. Both shapes hold
    equally many elements, so that one pair of dimensions may stay unproven where all others are
    known to agree.
    """
    front, gaps = _agreement(before, goal), 0
    if front == 0 and len(before) > 1 and len(goal) > 1 and not _differ(before[0], goal[0]):
        # The batch's symbol may have got lost on the way.
        front, gaps = 1 + _agreement(before[1:], goal[1:]), 1
    if front == len(before) == len(goal):
        return (0, 0, [-1])
    back = _agreement(before[front:][::-1], goal[front:][::-1])
    if front + back == min(len(before), len(goal)):  # ones were added or taken away
        front, back = (front - 1, back) if front > gaps else (front, back - 1)
    old, new = before[front : len(before) - back], goal[front : len(goal) - back]
    if not old or not new or min(len(old), len(new)) > 1:
        return None
    if gaps and (_product(old) is None or _product(old) != _product(new)):
        return None
    if len(new) == 1:
        return (front, len(before) - back - 1, [-1])
    sizes = [size for size in new if isinstance(size, int)]
    if len(sizes) < len(new):
        return None
    # Heads of attention stand before their width, groups of a shuffle before their channels: the
    # first of the former and the last of the latter is what pruning makes smaller.
    wide = [place for place, size in enumerate(sizes) if size != 1] or [0]
    sizes[wide[-2] if back == 0 and len(wide) > 1 else wide[-1]] = -1
    return (front, front, sizes)


def _agreement(before: Sequence[Dim], goal: Sequence[Dim]) -> int:
    """How many leading dimensions are known to agree."""
    count = 0
    for a, b in zip(before, goal, strict=False):
        if a is None or a != b:
            break
        count += 1
    return count


def _differ(a: Dim, b: Dim) -> bool:
    return isinstance(a, int) and isinstance(b, int)


def _product(sizes: Sequence[Dim]) -> int | None:
    known = [size for size in sizes if isinstance(size, int)]
    return math.prod(known) if len(known) == len(sizes) else None


def _column(builder: Builder, x: fx.Node) -> fx.Node:
    return builder.call(torch.unsqueeze, x, 1)


def _reshape_to(x: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
    sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(shape.tolist())]
    return x.reshape(sizes)


def _expand_to(x: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, shape.tolist()))


def _flatten(x: torch.Tensor, axis: int) -> torch.Tensor:
    if axis == 0:
        return x.reshape(1, -1)
    if axis == x.dim():
        return x.reshape(-1, 1)
    return x.flatten(axis).flatten(0, axis - 1)


def _depth_to_space(x: torch.Tensor, size: int) -> torch.Tensor:
    batch, channels, height, width = x.shape
    x = x.reshape(batch, size, size, channels // size**2, height, width)
    x = x.permute(0, 3, 4, 1, 5, 2)
    return x.reshape(batch, channels // size**2, height * size, width * size)


def _space_to_depth(x: torch.Tensor, size: int) -> torch.Tensor:
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // size, size, width // size, size)
    x = x.permute(0, 3, 5, 1, 2, 4)
    return x.reshape(batch, channels * size**2, height // size, width // size)
