"""Operators that pick or place elements: slices, lookups, splits."""

from __future__ import annotations

import operator as python
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from strop.models.onnx_ops.builder import Builder, Call, Constant, Value, operator
from strop.models.onnx_ops.layers import embedding
from strop.models.onnx_ops.strided import unchanged

_FAR = 10**9
"""Ends from here on mean "to the end": exporters write one of several big numbers."""
_TABLE_ROWS = 2


@operator("Gather")
def gather(builder: Builder, call: Call) -> Value:
    data, places = call.inputs
    axis = int(call.attributes.get("axis", 0))
    if isinstance(data, Constant) and axis == 0 and _is_table(data.array):
        return embedding(builder, call, data, builder.tensor(places))
    x = builder.tensor(data)
    whole = unchanged(builder, call) if axis == 0 else None
    if whole is not None:
        return whole
    if isinstance(places, Constant) and places.array.ndim == 0:
        return builder.method("select", x, axis, places.array.item())
    items = builder.integers(places)
    shape = builder.shape(call.input_names[1])
    if items is not None and shape == ():
        return builder.method("select", x, axis, items[0])
    if isinstance(places, Constant) and places.array.ndim == 1 and (places.array >= 0).all():
        return builder.call(torch.index_select, x, axis, builder.tensor(places))
    return builder.call(_take, x, builder.axis(call, axis), builder.tensor(places))


@operator("GatherElements")
def gather_elements(builder: Builder, call: Call) -> Value:
    x, places = (builder.tensor(value) for value in call.inputs)
    return builder.call(_take_along, x, int(call.attributes.get("axis", 0)), places)


@operator("GatherND")
def gather_nd(builder: Builder, call: Call) -> Value:
    if call.attributes.get("batch_dims", 0):
        raise call.fails("has batch dimensions")
    x, places = (builder.tensor(value) for value in call.inputs)
    return builder.call(_take_nd, x, places)


@operator("ScatterND")
def scatter_nd(builder: Builder, call: Call) -> Value:
    if call.attributes.get("reduction", b"none") != b"none":
        raise call.fails("combines what it places")
    return builder.call(_place_nd, *(builder.tensor(value) for value in call.inputs))


@operator("ScatterElements")
def scatter_elements(builder: Builder, call: Call) -> Value:
    if call.attributes.get("reduction", b"none") != b"none":
        raise call.fails("combines what it places")
    x, places, values = (builder.tensor(value) for value in call.inputs)
    return builder.call(torch.scatter, x, int(call.attributes.get("axis", 0)), places, values)


@operator("Slice")
def take_slice(builder: Builder, call: Call) -> Value:
    starts, ends, axes, steps = (builder.integers(call.input(place)) for place in (1, 2, 3, 4))
    if starts is None or ends is None or (axes is None and call.input(3) is not None):
        raise call.fails("takes bounds that are computed from data")
    if steps is None and call.input(4) is not None:
        raise call.fails("takes steps that are computed from data")
    wanted: dict[int, slice] = {}
    turned: list[int] = []
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = axes[number] if axes is not None else number
        step = steps[number] if steps is not None else 1
        if not isinstance(axis, int) or not isinstance(step, int):
            raise call.fails("takes axes that are computed from data")
        axis = builder.axis(call, axis)
        if step < 0:
            if step != -1 or not _is_whole(start, end):
                raise call.fails("steps backwards through a part")
            turned.append(axis)
            continue
        first = None if start == 0 else start
        last = None if isinstance(end, int) and end >= _FAR else end
        if (first, last, step) != (None, None, 1):
            wanted[axis] = slice(first, last, None if step == 1 else step)
    x = builder.tensor(call.inputs[0])
    if turned:
        x = builder.call(torch.flip, x, turned)
    if not wanted:
        return x
    index = tuple(wanted.get(axis, slice(None)) for axis in range(max(wanted) + 1))
    return builder.call(python.getitem, x, index)


@operator("Split")
def split(builder: Builder, call: Call) -> Sequence[Value]:
    x, axis = builder.tensor(call.inputs[0]), int(call.attributes.get("axis", 0))
    count = len(call.output_names)
    sizes = builder.known_integers(call, 1, "split")
    if sizes is None or len(set(sizes)) == 1:  # equal parts stay equal when channels are pruned
        parts = builder.call(torch.chunk, x, count, axis)
    else:
        parts = builder.call(torch.split, x, sizes, axis)
    return [builder.call(python.getitem, parts, place) for place in range(count)]


@operator("OneHot")
def one_hot(builder: Builder, call: Call) -> Value:
    depth, values = builder.integers(call.inputs[1]), call.inputs[2]
    if depth is None or not isinstance(values, Constant):
        raise call.fails("takes a depth or values that are not constant")
    off, on = (
        builder.call(python.getitem, builder.tensor(values), 0),
        builder.call(python.getitem, builder.tensor(values), 1),
    )
    axis = int(call.attributes.get("axis", -1))
    return builder.call(_one_hot, builder.tensor(call.inputs[0]), depth[0], off, on, axis)


@operator("Trilu")
def triangle(builder: Builder, call: Call) -> Value:
    function = torch.triu if call.attributes.get("upper", 1) else torch.tril
    diagonal = (builder.known_integers(call, 1) or [0])[0]
    return builder.call(function, builder.tensor(call.inputs[0]), diagonal)


def _is_table(array: np.ndarray) -> bool:
    """Whether rows of it are what the network has learned of words, places or classes."""
    return array.ndim == 2 and array.dtype.kind in "fV" and len(array) >= _TABLE_ROWS


def _is_whole(start: int | fx.Node, end: int | fx.Node) -> bool:
    """Whether bounds with a step of −1 span the whole axis."""
    known = isinstance(start, int) and isinstance(end, int)
    return known and (start == -1 or start >= _FAR) and end <= -_FAR


def _take(x: torch.Tensor, axis: int, places: torch.Tensor) -> torch.Tensor:
    places = torch.where(places < 0, places + x.shape[axis], places)
    found = torch.index_select(x, axis, places.reshape(-1))
    return found.reshape((*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]))


def _take_along(x: torch.Tensor, axis: int, places: torch.Tensor) -> torch.Tensor:
    places = torch.where(places < 0, places + x.shape[axis], places)
    return torch.gather(x, axis, places)


def _take_nd(x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return x[tuple(places.unbind(-1))]


def _place_nd(x: torch.Tensor, places: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return torch.index_put(x, tuple(places.unbind(-1)), values)


def _one_hot(x: torch.Tensor, depth: int, off: Any, on: Any, axis: int) -> torch.Tensor:
    rows = torch.arange(depth)
    found = torch.where(x < 0, x + depth, x).unsqueeze(-1) == rows
    return torch.where(found, on, off).movedim(-1, axis)
