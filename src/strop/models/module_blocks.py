"""Whole blocks left out of a module: by an identity in their place, or by cutting a traced graph.

Imports torch, so import it late.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn

_SUMS = (operator.add, torch.add, operator.iadd)


class Skip(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """Gives its first argument, whatever else a block in its place was given (a mask, say)."""

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        return x


def leave_out(module: nn.Module, name: str) -> nn.Module:
    """`module` without the block called `name`, changed in place.

    A traced module, such as one that was converted from ONNX, calls layers and not blocks: there
    the layers below `name` are bridged, from what the first of them takes to what the last gives,
    the sum behind it included where it is a residual one.

    Raises
    ------
    KeyError
        When there is no such block.
    """
    if isinstance(module, fx.GraphModule):
        found = ends(module, name)
        if found is None:
            raise KeyError(name)
        first, last = found
        last.replace_all_uses_with(first)
        module.graph.eliminate_dead_code()
        module.graph.lint()
        module.delete_all_unused_submodules()
        module.recompile()
        return module
    path, _, attribute = name.rpartition(".")
    owner = module.get_submodule(path) if path else module
    if attribute not in owner._modules:
        raise KeyError(name)
    owner._modules[attribute] = Skip()
    return module


def ends(module: fx.GraphModule, name: str) -> tuple[fx.Node, fx.Node] | None:
    """What goes into the block called `name` and what comes out of it; None if it is no block.

    It is one when nothing of it is left once its end has been bridged.
    """
    layers = [
        node
        for node in module.graph.nodes
        if node.op == "call_module" and str(node.target).startswith(f"{name}.")
    ]
    if not layers or not isinstance(layers[0].args[0], fx.Node):
        return None
    first, last = layers[0].args[0], layers[-1]
    readers = list(last.users)
    if len(readers) == 1 and _is_sum(readers[0]):
        last = readers[0]
    needed = _needed(module, last, first)
    return None if any(layer in needed for layer in layers) else (first, last)


def _needed(module: fx.GraphModule, bridged: fx.Node, by: fx.Node) -> set[fx.Node]:
    """The nodes that the outputs still need when `bridged` is read from `by`."""
    waiting = [node for node in module.graph.nodes if node.op == "output"]
    found: set[fx.Node] = set()
    while waiting:
        node = waiting.pop()
        node = by if node is bridged else node
        if node not in found:
            found.add(node)
            waiting.extend(node.all_input_nodes)
    return found


def _is_sum(node: fx.Node) -> bool:
    if node.op == "call_method":
        return str(node.target) in ("add", "add_")
    return node.op == "call_function" and node.target in _SUMS and len(node.all_input_nodes) == 2
