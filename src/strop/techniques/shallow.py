"""A copy of a module with fewer residual blocks. Imports torch, so import it late."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from strop.errors import NotApplicable
from strop.models.module_blocks import ends
from strop.models.module_form import ModuleForm
from strop.models.module_plan import Op, drop_op
from strop.techniques.smaller import check

Tensors = Mapping[str, torch.Tensor]


def shallower(module: nn.Module, form: ModuleForm, inputs: Tensors, keep: float) -> Op:
    """The operation that leaves out blocks whose output has the shape of their input.

    Blocks are items of the module's sequences. `keep` is the share of them that stays, the first
    among them; what goes is spread evenly, the last included.

    Raises
    ------
    NotApplicable
        When there is no block to leave out.
    """
    names = removable(module, form, inputs)
    count = len(names) - round(len(names) * keep)
    if not names or not count:
        raise NotApplicable("has no blocks to leave out")
    # Spread evenly from the end: what comes early feeds everything after it.
    picked = {names[len(names) - 1 - (place * len(names)) // count] for place in range(count)}
    op = drop_op([name for name in names if name in picked])
    check(module, op, form, inputs)
    return op


def removable(module: nn.Module, form: ModuleForm, inputs: Tensors) -> list[str]:
    """Names of sequence items with weights that give tensors shaped as the ones they take.

    What they are given besides, a mask say, goes with them. In a traced module, which calls
    layers and no blocks, items are told by their numbers.
    """
    traced = isinstance(module, fx.GraphModule)
    candidates: dict[str, nn.Module] = {}
    for name, parent in module.named_modules():
        if traced or isinstance(parent, nn.Sequential | nn.ModuleList):
            for key, child in parent.named_children():
                layered = sum(1 for part in child.modules() if list(part.parameters(False)))
                if layered > 1 and (key.isdigit() or not traced):
                    candidates[f"{name}.{key}" if name else key] = child
    # A block within a block goes with it.
    outer = [n for n in candidates if not any(n.startswith(f"{m}.") for m in candidates)]
    if isinstance(module, fx.GraphModule):
        return _removable_from_graph(module, outer, form, inputs)
    alike: dict[str, bool] = {}

    def hook(name: str) -> Any:
        def note(block: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            tensors = [one for one in (*args[:1], output) if isinstance(one, torch.Tensor)]
            alike[name] = len(tensors) == 2 and tensors[0].shape == tensors[1].shape

        return note

    handles = [
        candidates[name].register_forward_hook(hook(name), with_kwargs=True) for name in outer
    ]
    try:
        with torch.no_grad():
            form.run(module.eval(), inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [name for name in outer if alike.get(name)]


def _removable_from_graph(
    module: fx.GraphModule, names: Sequence[str], form: ModuleForm, inputs: Tensors
) -> list[str]:
    shapes: dict[str, torch.Size] = {}

    class Recorder(fx.Interpreter):  # type: ignore[misc]  # torch is untyped here
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, torch.Tensor):
                shapes[n.name] = result.shape
            return result

    with torch.no_grad():
        Recorder(module).run(*(inputs[name] for name in form.inputs))
    found = {name: ends(module, name) for name in names}
    return [
        name
        for name, pair in found.items()
        if pair is not None
        and pair[0].name in shapes
        and shapes[pair[0].name] == shapes.get(pair[1].name)
    ]
