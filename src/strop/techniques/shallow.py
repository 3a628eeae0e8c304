"""A copy of a module with fewer residual blocks. Imports torch, so import it late."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from strop.errors import NotApplicable
from strop.models.module_blocks import ends
from strop.models.module_form import ModuleForm
from strop.models.module_plan import Op, drop_op
from strop.techniques.smaller import check

Tensors = Mapping[str, torch.Tensor]

_TINY = 1e-12


def shallower(
    module: nn.Module,
    form: ModuleForm,
    inputs: Tensors,
    keep: float,
    examples: Tensors | None = None,
) -> Op:
    """The operation that leaves out blocks whose output has the shape of their input.

    Blocks are items of the module's sequences. `keep` is the share of them that stays; those go
    without which the outputs change least (:func:`least_needed`).

    Parameters
    ----------
    inputs
        A small batch on which the module is tried.
    examples
        The batch by which blocks are compared; `inputs` without it, and some dozen say more.

    Raises
    ------
    NotApplicable
        When there is no block to leave out.
    """
    names = removable(module, form, inputs)
    count = len(names) - round(len(names) * keep)
    if not names or not count:
        raise NotApplicable("has no blocks to leave out")
    op = drop_op(least_needed(module, form, inputs, names, count, [examples or inputs]))
    check(module, op, form, inputs)
    return op


def least_needed(
    module: nn.Module,
    form: ModuleForm,
    inputs: Tensors,
    names: Sequence[str],
    count: int,
    examples: Iterable[Tensors],
) -> list[str]:
    """The `count` blocks of `names`, in their order, whose absence changes the outputs least.

    Each is left out by itself: as many runs of the module as there are blocks. Where a block lies
    says little: an encoder's last one is among those that it cannot do without.

    Parameters
    ----------
    inputs, examples
        A small batch on which the module is tried, and those by which blocks are compared.

    Raises
    ------
    NotApplicable
        When there are fewer than `count` that the module runs without.
    """
    batches = list(examples)
    damage: dict[str, float] = {}
    refused: NotApplicable | None = None
    with torch.no_grad():
        before = [form.run(module.eval(), batch) for batch in batches]
        for name in names:
            try:
                changed = check(module, drop_op([name]), form, inputs)
            except NotApplicable as error:
                refused = error
                continue
            damage[name] = sum(
                _change(outputs, form.run(changed, batch))
                for batch, outputs in zip(batches, before, strict=True)
            )
    if refused is not None and len(damage) < count:
        raise refused
    # Of equals the later one goes: what comes early feeds everything after it.
    ranked = sorted(damage, key=lambda name: (damage[name], -names.index(name)))
    return sorted(ranked[:count], key=names.index)


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


def _change(before: Tensors, after: Tensors) -> float:
    """Mean squared change of the outputs, relative to their size; what is no number is infinite."""
    total = 0.0
    for name, value in before.items():
        if value.is_floating_point():
            scale = float(value.square().mean()) + _TINY
            total += float((after[name] - value).square().mean()) / scale
    return total if math.isfinite(total) else math.inf


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
