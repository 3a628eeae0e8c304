"""Rewrites that ONNX Runtime's basic level leaves out: HardSwish, computed and double reshapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from strop.models.graph import infer_shapes, shapes_by_name
from strop.records import Dim
from strop.techniques.folding import drop_unused_initializers
from strop.techniques.onnx_view import GraphView, attribute, name_nodes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_ROW_MAJOR = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Operators that give the same elements in the same order another shape."""


def fuse(model: ModelProto) -> None:
    """Apply all rewrites of this file in place; nodes without a name get one."""
    name_nodes(model.graph)
    fuse_hard_swish(model)
    fix_reshape_targets(model)
    skip_reshapes(model)
    drop_dead_nodes(model)


def fuse_hard_swish(model: ModelProto) -> None:
    """``x · clip(x + 3, 0, 6) / 6`` (Howard et al., 2019, arXiv:1905.02244) to HardSwish.

    The division may stand before or after the product, and be a product with 1/6.
    """
    view = GraphView(model)
    for node in model.graph.node:
        source = _hard_swish_of(view, node)
        if source is not None:
            node.op_type = "HardSwish"
            del node.input[:]
            node.input.append(source)


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


def _hard_swish_of(view: GraphView, node: NodeProto) -> str | None:
    """The x where `node` computes HardSwish(x)."""
    numerator = _sixth_of(view, node)
    product = None if numerator is None else _producer(view, numerator)
    if product is not None and product.op_type == "Mul":
        for source, gate in _both_orders(product):
            if _gate_source(view, gate) == source:
                return source
    if node.op_type == "Mul":
        for source, factor in _both_orders(node):
            sixth = _producer(view, factor)
            clipped = None if sixth is None else _sixth_of(view, sixth)
            if clipped is not None and _gate_source(view, clipped) == source:
                return source
    return None


def _gate_source(view: GraphView, name: str) -> str | None:
    """The x where the tensor is clip(x + 3, 0, 6)."""
    clip = _producer(view, name)
    if clip is None or clip.op_type != "Clip" or len(clip.input) != 3:
        return None
    shift = _producer(view, clip.input[0])
    bounds = _is_scalar(view, clip.input[1], 0.0) and _is_scalar(view, clip.input[2], 6.0)
    if shift is None or shift.op_type != "Add" or not bounds:
        return None
    for source, offset in _both_orders(shift):
        if _is_scalar(view, offset, 3.0):
            return source
    return None


def _sixth_of(view: GraphView, node: NodeProto) -> str | None:
    """The t where `node` computes t / 6."""
    if node.op_type == "Div" and _is_scalar(view, node.input[1], 6.0):
        return str(node.input[0])
    if node.op_type == "Mul":
        for tensor, factor in _both_orders(node):
            if _is_scalar(view, factor, 1 / 6):
                return tensor
    return None


def _both_orders(node: NodeProto) -> tuple[tuple[str, str], tuple[str, str]]:
    first, second = node.input
    return (first, second), (second, first)


def _is_scalar(view: GraphView, name: str, value: float) -> bool:
    """Whether the tensor is one constant number that broadcasts to any shape but a scalar's."""
    constant = view.constant(name)
    if constant is None or constant.shape not in ((), (1,)) or constant.dtype.kind != "f":
        return False
    return bool(np.isclose(constant.item(), value, rtol=1e-6, atol=0.0))


def _producer(view: GraphView, name: str) -> NodeProto | None:
    return view.nodes.get(view.producer.get(name, ""))
