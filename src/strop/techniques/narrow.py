"""A copy of a module with fewer channels in every layer. Imports torch, so import it late."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from strop.errors import MissingExtra, NotApplicable
from strop.models.module_form import ModuleForm, describe_error
from strop.models.module_plan import Op, apply_plan, mark, prune_op
from strop.techniques.dependency import Dependencies, Group
from strop.techniques.importance import unit_scores
from strop.techniques.smaller import are_close, check, without_weights

Tensors = Mapping[str, Tensor]

_STEPS = (8, 4)
"""Widths are multiples of the first of these that they reach."""
_LEAST = 0.1
"""Share of the weights that has to go, for a copy to be called narrower."""


def narrower(module: nn.Module, form: ModuleForm, inputs: Tensors, keep: float) -> Op:
    """The operation that cuts every layer to the same share of its channels.

    Channels go in groups along the dependency graph (Fang et al., *DepGraph*, 2023,
    arXiv:2301.12900), the ones of least magnitude first, so that what stays is a start for
    training. Inputs and outputs keep their widths. Counts are rounded to multiples of 8, or of 4
    or 1 where layers are that narrow.

    All groups are cut at once. Where that does not run, or gives other than the whole module with
    the weights of those channels set to zero, because the module splits channels into parts or
    heads or ties weights, the groups are tried one by one
    (:class:`strop.techniques.dependency.Dependencies`), and those that cannot be cut stay whole.

    Parameters
    ----------
    inputs
        A small batch on which the module is traced.
    keep
        Share of the channels to keep, in (0, 1).

    Raises
    ------
    NotApplicable
        When the module cannot be traced, or next to nothing in it can be narrowed.
    """
    at_once = None
    try:
        at_once = _at_once(module, form, inputs, keep)
    except NotApplicable:
        pass  # the other way says what stands against it, group by group
    else:
        # The groups leave that layer whole; it takes any width that its heads divide.
        attentive = any(isinstance(layer, nn.MultiheadAttention) for layer in module.modules())
        if attentive or _keeps_what_stays(module, at_once, form, inputs):
            return at_once
    try:
        return _by_groups(module, form, inputs, keep)
    except NotApplicable:
        if at_once is None:
            raise
        return at_once  # it runs, and training has the more to mend


def _at_once(module: nn.Module, form: ModuleForm, inputs: Tensors, keep: float) -> Op:
    """Every group cut by torch-pruning, none of them tried."""
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
    if not _keeps_ties(module, op):
        raise NotApplicable("weights that are tied would come apart")
    check(module, op, form, inputs)
    return op


def _by_groups(module: nn.Module, form: ModuleForm, inputs: Tensors, keep: float) -> Op:
    """Those groups cut that can be, each tried before."""
    found = Dependencies(module, form, inputs)
    if not found.groups:
        reason = next(iter(found.refused.values()), "it has no layers with channels")
        raise NotApplicable(f"cannot be narrowed: {reason}")
    scores = unit_scores(module, form, found.groups, "magnitude")
    op = found.remove(
        {
            group.root: scores[group.root]
            .argsort(stable=True)[: len(group.units) - _units(group, keep)]
            .sort()
            .values.tolist()
            for group in found.groups
        }
    )
    before, after = (
        sum(tensor.numel() for tensor in one.parameters())
        for one in (module, apply_plan(copy.deepcopy(module), [op]))
    )
    if before - after < _LEAST * before:
        most = ", ".join(f"{root}: {reason}" for root, reason in list(found.refused.items())[:3])
        raise NotApplicable(
            f"cannot be narrowed: {after / before:.0%} of its weights would stay"
            + (f" ({most})" if most else "")
        )
    return op


def _units(group: Group, keep: float) -> int:
    """How many units of a group stay."""
    size, wanted = len(group.units[0]), keep * len(group.units)
    step = next((step for step in _STEPS if wanted * size >= step), 1)
    multiple = max(step // size, 1)
    return min(max(round(wanted / multiple), 1) * multiple, len(group.units))


def _keeps_what_stays(module: nn.Module, op: Op, form: ModuleForm, inputs: Tensors) -> bool:
    """Whether what is left computes what the whole does without the weights that go."""
    smaller = apply_plan(copy.deepcopy(module), [op]).eval()
    with torch.no_grad():
        found, whole = form.run(smaller, inputs), form.run(module, inputs)
    return are_close(found, without_weights(module, op, form, inputs), whole)


def _keeps_ties(module: nn.Module, op: Op) -> bool:
    """Whether tensors that are one stay so: the same places of each are kept."""
    kept: dict[int, Any] = {}
    named = module.named_parameters(remove_duplicate=False)
    return all(
        kept.setdefault(id(tensor), op["keep"].get(name)) == op["keep"].get(name)
        for name, tensor in named
    )


def _rounding(module: nn.Module, keep: float) -> int:
    widths = [
        layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    narrowest = min(widths, default=1) * keep
    return next((step for step in _STEPS if narrowest >= step), 1)


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
