"""Rewrites that ONNX Runtime's basic level leaves out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from strop.models.graph import infer_shapes, shapes_by_name
from strop.records import Dim
from strop.techniques.activations import fuse_activations
from strop.techniques.affine import fold_affine
from strop.techniques.folding import drop_unused_initializers
from strop.techniques.lookups import look_up_one_hot_products, move_into_tables
from strop.techniques.onnx_view import GraphView, attribute, name_nodes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_ROW_MAJOR = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Operators that give the same elements in the same order another shape."""

_ENDLESS = 10**9
"""What exporters write for "to the end" of an axis of unknown size, and more."""


def fuse(model: ModelProto, leave_out: Collection[str] = ()) -> ModelProto:
    """Apply the rewrites of :data:`REWRITES`, in that order; nodes without a name get one.

    Parameters
    ----------
    leave_out
        Names of rewrites to leave out, for finding out what one of them brings.

    Returns
    -------
    The model, changed in place, or another one where an activation needs a later operator set.
    """
    name_nodes(model.graph)
    for name, rewrite in REWRITES.items():
        if name not in leave_out:
            changed = rewrite(model)
            model = model if changed is None else changed
    drop_dead_nodes(model)
    return model


def skip_slices(model: ModelProto) -> None:
    """Let what reads a Slice of everything read what is sliced."""
    view = GraphView(model)
    same: dict[str, str] = {}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = same.get(name, name)
        if node.op_type == "Slice" and view.is_private(node.output[0]) and _takes_all(view, node):
            same[node.output[0]] = node.input[0]


def fix_reshape_targets(model: ModelProto) -> None:
    """Replace a Reshape's computed target by a constant one, where inferred shapes allow it.

    Exporters compute the target from the input's shape even where a constant does: numbers as
    they are, 0 for a dimension that stays in its place, −1 for one other.
    """
    from onnx import numpy_helper

    view = GraphView(model)
    shapes = shapes_by_name(infer_shapes(model))
    for node in model.graph.node:
        if node.op_type != "Reshape" or view.constant(node.input[1]) is not None:
            continue
        target = _target(shapes.get(node.input[0]), shapes.get(node.output[0]))
        if target is not None and not attribute(node, "allowzero", 0):
            name = f"{node.name}:target"
            model.graph.initializer.append(
                numpy_helper.from_array(np.array(target, np.int64), name)
            )
            node.input[1] = name


def skip_reshapes(model: ModelProto) -> None:
    """Let a Reshape read what the reshaping node before it read.

    Only where the target copies no dimension (0) from the shape that would be skipped.
    """
    view = GraphView(model)
    for node in model.graph.node:
        if node.op_type != "Reshape":
            continue
        target = view.constant(node.input[1])
        if target is None or not target.all():
            continue
        before = _producer(view, node.input[0])
        while before is not None and before.op_type in _ROW_MAJOR:
            node.input[0] = before.input[0]
            before = _producer(view, node.input[0])


def drop_dead_nodes(model: ModelProto) -> None:
    """Remove nodes and initialisers whose results nothing reads."""
    view = GraphView(model)
    needed = view.outputs | view.captured
    kept = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    drop_unused_initializers(model)


def _name_activations(model: ModelProto) -> ModelProto:
    model = fuse_activations(model)
    name_nodes(model.graph)
    return model


def _target(before: tuple[Dim, ...] | None, after: tuple[Dim, ...] | None) -> list[int] | None:
    """A constant Reshape target that gives the shape `after`, or None."""
    if before is None or after is None or 0 in after:
        return None
    target = [
        dim
        if isinstance(dim, int)
        else 0
        if dim is not None and place < len(before) and before[place] == dim
        else -1
        for place, dim in enumerate(after)
    ]
    return target if target.count(-1) <= 1 else None


def _takes_all(view: GraphView, node: NodeProto) -> bool:
    """Whether each axis is taken from its start to its end in steps of one."""
    starts, ends, *rest = (view.constant(name) for name in node.input[1:])
    shape = view.shapes.get(node.input[0])
    if starts is None or ends is None or starts.any() or shape is None:
        return False
    axes = rest[0] if rest and rest[0] is not None else np.arange(len(starts))
    steps = rest[1] if len(rest) > 1 else None
    if (len(node.input) > 4 and node.input[4] and steps is None) or (
        steps is not None and (steps != 1).any()
    ):
        return False
    sizes = (shape[int(axis)] for axis in axes)
    return all(
        end >= _ENDLESS if size is None else end >= size
        for end, size in zip(ends.tolist(), sizes, strict=True)
    )


def _producer(view: GraphView, name: str) -> NodeProto | None:
    return view.nodes.get(view.producer.get(name, ""))


REWRITES: Mapping[str, Callable[[ModelProto], ModelProto | None]] = {
    "slices": skip_slices,
    "one-hot products": look_up_one_hot_products,
    "tables": move_into_tables,
    "activations": _name_activations,
    "affine": fold_affine,
    "reshape targets": fix_reshape_targets,
    "reshapes": skip_reshapes,
}
"""Each rewrite by name; the result is a new model, or None where it changes the one it is given."""
