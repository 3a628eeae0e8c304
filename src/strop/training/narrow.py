"""Smaller copies of a module that can be rebuilt from a plan: narrower, or with fewer blocks."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from strop.errors import MissingExtra, NotApplicable
from strop.models.module_blocks import ends
from strop.models.module_form import ModuleForm, describe_error
from strop.models.module_plan import Op, apply_plan, drop_op, mark, prune_op

Tensors = Mapping[str, torch.Tensor]


def narrower(module: nn.Module, form: ModuleForm, inputs: Tensors, keep: float) -> Op:
    """The operation that cuts every layer to the same share of its channels.

    Channels go in groups along the dependency graph (Fang et al., *DepGraph*, 2023,
    arXiv:2301.12900), the ones of least magnitude first, so that what stays is a start for
    training. Inputs and outputs keep their widths. Counts are rounded to multiples of 8, or of 4
    or 1 where layers are that narrow.

    Parameters
    ----------
    inputs
        A small batch on which the module is traced.
    keep
        Share of the channels to keep, in (0, 1).

    Raises
    ------
    NotApplicable
        When the module cannot be traced, or nothing in it can be narrowed.
    """
    try:
        import torch_pruning as tp
    except ImportError as error:
        raise MissingExtra("torch-pruning", extra="train") from error
    traced: dict[str, Any] = {
        "example_inputs": dict(inputs),
        "forward_fn": form.run,
        "output_transform": lambda values: [t for t in values.values() if t.requires_grad],
    }

    chosen = copy.deepcopy(module).eval().requires_grad_(True)
    marked = copy.deepcopy(module).eval().requires_grad_(True)
    try:
        pruner = tp.pruner.BasePruner(
            chosen,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=1 - keep,
            round_to=_rounding(chosen, keep),
            ignored_layers=_last_layers(chosen, form, inputs),
            in_channel_groups={},
            out_channel_groups={},
            num_heads={},
            **traced,
        )
        pruner.step()
        # The same again on tensors that hold positions: what is left tells what was kept.
        graph = tp.DependencyGraph().build_dependency(marked, **traced)
        mark(marked)
        graph.load_pruning_history(pruner.pruning_history())
    except Exception as error:  # tracing runs the user's code
        raise NotApplicable(f"cannot be narrowed: {describe_error(error)}") from error
    op = prune_op(module, marked)
    if not op["keep"]:
        raise NotApplicable("no layer can be narrowed")
    check(module, op, form, inputs)
    return op


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


def can_be_shallower(module: nn.Module, form: ModuleForm, inputs: Tensors) -> bool:
    """Whether :func:`shallower` finds blocks to leave out."""
    return bool(removable(module, form, inputs))


def check(module: nn.Module, op: Op, form: ModuleForm, inputs: Tensors) -> nn.Module:
    """The changed copy; NotApplicable unless it takes the inputs and gives outputs alike."""
    try:
        changed = apply_plan(copy.deepcopy(module), [op]).eval()
        with torch.no_grad():
            before, after = form.run(module.eval(), inputs), form.run(changed, inputs)
    except Exception as error:  # the user's forward may count on the old shapes
        raise NotApplicable(f"does not run when it is smaller: {describe_error(error)}") from error
    for name, value in before.items():
        if after[name].shape != value.shape:
            raise NotApplicable(f"its output '{name}' changes its shape when it is smaller")
    return changed


def _rounding(module: nn.Module, keep: float) -> int:
    widths = [
        layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    narrowest = min(widths, default=1) * keep
    return next((step for step in (8, 4) if narrowest >= step), 1)


def _last_layers(module: nn.Module, form: ModuleForm, inputs: Tensors) -> list[nn.Module]:
    """Layers whose output is an output of the module: their widths are the signature's."""
    seen: dict[Any, nn.Module] = {}

    def note(layer: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            seen[output.grad_fn] = layer

    handles = [
        layer.register_forward_hook(note)
        for layer in module.modules()
        if not list(layer.children())
    ]
    try:
        outputs = form.run(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    found: list[nn.Module] = []
    for tensor in outputs.values():
        found += _producers(tensor.grad_fn, seen)
    return found


def _producers(node: Any, seen: Mapping[Any, nn.Module]) -> list[nn.Module]:
    """The nearest layers with channels of their own behind an output, through what has none."""
    found, waiting, done = [], [node], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in done:
            continue
        done.add(node)
        layer = seen.get(node)
        if layer is not None and isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
            found.append(layer)
            continue
        waiting.extend(following for following, _ in node.next_functions)
    return found


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
