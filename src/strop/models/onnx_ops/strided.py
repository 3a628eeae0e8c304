"""Strided views: what torch's exporter makes of `as_strided`.

It flattens a tensor and gathers from it at computed places, which are all places in order where
the view was the tensor itself (so after `AdaptiveAvgPool2d(1)`). As a lookup it would hold on to
the number of channels, which pruning changes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from strop.models.onnx_ops.builder import Builder, Call
from strop.records import Dim

_TRIED = (2, 3)
"""Sizes of the free dimension for which the places must be all places in order."""


def unchanged(builder: Builder, call: Call) -> fx.Node | None:
    """The tensor of which a Gather takes everything in order, or None where it does not."""
    flat, places = call.inputs
    if not isinstance(flat, fx.Node) or not isinstance(places, fx.Node):
        return None
    source = _flattened(flat)
    if source is None:
        return None
    before = builder.shape(source.meta.get("onnx", ""))
    after = builder.shape(call.output_names[0])
    if before is None or before != after or None in before:
        return None
    free = {size for size in before if isinstance(size, str)}
    if len(free) > 1:
        return None
    for size in _TRIED:
        sizes = [dim if isinstance(dim, int) else size for dim in before]
        found = _evaluate(builder, places, dict.fromkeys(free, size))
        wanted = torch.arange(torch.Size(sizes).numel()).reshape(sizes)
        if not isinstance(found, torch.Tensor) or not torch.equal(found, wanted):
            return None
    return source


def _flattened(node: fx.Node) -> fx.Node | None:
    """The tensor of which `node` is all elements in one row."""
    rows = node.target == "reshape" and node.args[1] == (-1,)
    if not rows and not (node.target is torch.flatten and node.args[1] == 0):
        return None
    source = node.args[0]
    return source if isinstance(source, fx.Node) else None


def _evaluate(builder: Builder, node: Any, free: dict[Dim, int]) -> Any:
    """The value of a node that depends on sizes alone; None for any other."""
    if isinstance(node, tuple | list):
        items = [_evaluate(builder, item, free) for item in node]
        return None if any(item is None for item in items) else type(node)(items)
    if not isinstance(node, fx.Node):
        return node
    if node.op == "call_method" and node.target == "size":
        shape = builder.shape(node.args[0].meta.get("onnx", node.args[0].name))
        size = shape[node.args[1]] if shape is not None else None
        return size if isinstance(size, int) else free.get(size)
    if node.op == "get_attr":
        owner, _, name = str(node.target).rpartition(".")
        return getattr(builder.root.get_submodule(owner), name)
    args = [_evaluate(builder, item, free) for item in node.args]
    if node.op not in ("call_function", "call_method") or any(item is None for item in args):
        return None
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **node.kwargs)
    return node.target(*args, **node.kwargs)
