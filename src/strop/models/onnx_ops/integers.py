"""Shape chains (Shape → Gather → Concat → Reshape) as plain integers.

Each function takes inputs of which one is :class:`Ints`, and returns None where the result is
no longer a scalar or vector of integers; the tensor translation then takes over.
"""

from __future__ import annotations

import operator as python
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import fx

from strop.models.onnx_ops.builder import (
    Builder,
    Call,
    Constant,
    Ints,
    Value,
    integer_operator,
    operator,
)

Item: TypeAlias = int | fx.Node
_INTEGER_TYPES = (6, 7)


@operator("Shape")
@integer_operator("Shape")
def shape(builder: Builder, call: Call) -> Value:
    value = call.inputs[0]
    if isinstance(value, Ints):
        return Constant(np.array([] if value.scalar else [len(value.items)], np.int64))
    rank = builder.rank(call)
    start = int(call.attributes.get("start", 0))
    end = int(call.attributes.get("end", rank))
    axes = range(rank)[start:end]
    tensor = builder.tensor(value)
    return Ints(tuple(builder.size(tensor, axis) for axis in axes))


@operator("Size")
def size(builder: Builder, call: Call) -> Value:
    return Ints((builder.method("numel", builder.tensor(call.inputs[0])),), scalar=True)


@integer_operator("Cast")
def cast(builder: Builder, call: Call) -> Value | None:
    return call.inputs[0] if int(call.attributes["to"]) in _INTEGER_TYPES else None


@integer_operator("Identity")
def identity(builder: Builder, call: Call) -> Value | None:
    return call.inputs[0]


@integer_operator("Squeeze")
def squeeze(builder: Builder, call: Call) -> Value | None:
    value = call.inputs[0]
    if isinstance(value, Ints) and len(value.items) == 1:
        return Ints(value.items, scalar=True)
    return None


@integer_operator("Unsqueeze")
def unsqueeze(builder: Builder, call: Call) -> Value | None:
    value, axes = call.inputs[0], builder.integers(call.input(1))
    if isinstance(value, Ints) and value.scalar and axes in ([0], [-1]):
        return Ints(value.items)
    return None


@integer_operator("Concat")
def concat(builder: Builder, call: Call) -> Value | None:
    parts = [builder.integers(value) for value in call.inputs]
    if any(part is None for part in parts) or not all(_is_vector(v) for v in call.inputs):
        return None
    return Ints(tuple(item for part in parts if part for item in part))


@integer_operator("Gather")
def gather(builder: Builder, call: Call) -> Value | None:
    value, where = call.inputs
    if not isinstance(value, Ints) or not isinstance(where, Constant) or where.array.ndim > 1:
        return None
    items = tuple(value.items[int(place)] for place in where.array.ravel())
    return Ints(items, scalar=where.array.ndim == 0)


@integer_operator("Slice")
def take_slice(builder: Builder, call: Call) -> Value | None:
    value = call.inputs[0]
    bounds = [builder.integers(call.input(place)) for place in (1, 2, 4)]
    if not isinstance(value, Ints) or bounds[0] is None or bounds[1] is None:
        return None
    start, end, step = (part[0] if part else 1 for part in bounds)
    if any(isinstance(bound, fx.Node) for bound in (start, end, step)):
        return None
    return Ints(value.items[start:end:step])


@integer_operator("Reshape")
def reshape(builder: Builder, call: Call) -> Value | None:
    value, target = call.inputs[0], builder.integers(call.inputs[1])
    if isinstance(value, Ints) and target is not None:
        if target == []:
            return Ints(value.items, scalar=True)
        if target in ([-1], [len(value.items)]):
            return Ints(value.items)
    return None


@integer_operator("Split")
def split(builder: Builder, call: Call) -> list[Value] | None:
    value = call.inputs[0]
    if not isinstance(value, Ints):
        return None
    count = len(call.output_names)
    sizes = builder.known_integers(call, 1) or [len(value.items) // count] * count
    ends = np.cumsum(sizes)
    return [
        Ints(value.items[end - size : end]) for size, end in zip(sizes, ends.tolist(), strict=True)
    ]


def _quotient(a: int, b: int) -> int:
    return a // b  # ONNX truncates; sizes are not negative


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "Add": python.add,
    "Sub": python.sub,
    "Mul": python.mul,
    "Div": _quotient,
    "Mod": python.mod,
    "Max": torch.sym_max,
    "Min": torch.sym_min,
}


@integer_operator(*_ARITHMETIC)
def arithmetic(builder: Builder, call: Call) -> Value | None:
    if len(call.inputs) != 2 or not all(_is_small(value) for value in call.inputs):
        return None
    left, right = (builder.integers(value) for value in call.inputs)
    if (
        left is None
        or right is None
        or not (len(left) == len(right) or 1 in (len(left), len(right)))
    ):
        return None
    length = max(len(left), len(right))
    pairs = zip(left * (length // len(left)), right * (length // len(right)), strict=True)
    function = _ARITHMETIC[call.kind]
    items = [_combine(builder, call.kind, function, a, b) for a, b in pairs]
    return Ints(tuple(items), scalar=not any(_is_vector(value) for value in call.inputs))


@integer_operator("ReduceProd")
def product(builder: Builder, call: Call) -> Value | None:
    value = call.inputs[0]
    if not isinstance(value, Ints):
        return None
    total: Item = 1
    for item in value.items:
        total = _combine(builder, "Mul", python.mul, total, item)
    return Ints((total,), scalar=not call.attributes.get("keepdims", 1))


@integer_operator("Equal")
def equal(builder: Builder, call: Call) -> Value | None:
    """Exporters ask which entries of a shape are −1; a size never is."""
    left, right = (builder.integers(value) for value in call.inputs)
    if left is None or right is None or len(left) != len(right):
        return None
    found = []
    for a, b in zip(left, right, strict=True):
        known = [item for item in (a, b) if isinstance(item, int)]
        if len(known) == 2:
            found.append(known[0] == known[1])
        elif a is b:
            found.append(True)
        elif known and known[0] < 0:
            found.append(False)
        else:
            return None
    return Constant(np.array(found))


@integer_operator("Where")
def where(builder: Builder, call: Call) -> Value | None:
    choice = call.inputs[0]
    yes, no = (builder.integers(value) for value in call.inputs[1:])
    if not isinstance(choice, Constant) or yes is None or no is None:
        return None
    if not choice.array.size == len(yes) == len(no):
        return None
    return Ints(tuple(a if c else b for c, a, b in zip(choice.array.ravel(), yes, no, strict=True)))


@operator("Range")
@integer_operator("Range")
def arange(builder: Builder, call: Call) -> Value:
    bounds: list[Any] = []
    for value in call.inputs:
        if isinstance(value, Ints):
            bounds.append(value.items[0])
        elif isinstance(value, Constant):
            bounds.append(value.array.item())
        else:
            bounds.append(builder.method("item", builder.tensor(value)))
    return builder.call(torch.arange, *bounds)


def _combine(
    builder: Builder, kind: str, function: Callable[[Any, Any], Any], a: Item, b: Item
) -> Item:
    if isinstance(a, int) and isinstance(b, int):
        return int(function(a, b))
    if (kind == "Mul" and a == 1) or (kind == "Add" and a == 0):
        return b
    if (kind in ("Mul", "Div") and b == 1) or (kind in ("Add", "Sub") and b == 0):
        return a
    return builder.call(function, a, b)


def _is_vector(value: Value | None) -> bool:
    if isinstance(value, Ints):
        return not value.scalar
    return isinstance(value, Constant) and value.array.ndim == 1


def _is_small(value: Value | None) -> bool:
    """Whether a value is an integer scalar or a short vector."""
    if isinstance(value, Constant):
        return (
            value.array.dtype.kind in "iu" and value.array.ndim < 2 and 0 < value.array.size <= 16
        )
    return isinstance(value, Ints) and bool(value.items)
