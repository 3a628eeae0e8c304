"""How much the channels of a module matter. Imports torch, so import it late.

Magnitude: Li et al., *Pruning filters for efficient convnets* (ICLR 2017). Taylor: Molchanov et
al., *Importance estimation for neural network pruning* (CVPR 2019, arXiv:1906.10771). Scale of
batch normalisation: Liu et al., *Network slimming* (ICCV 2017). Each is summed over all the
layers that a channel passes through, as in Fang et al., *DepGraph* (CVPR 2023).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from strop.errors import NotApplicable
from strop.models.module_form import ModuleForm, describe_error
from strop.techniques.dependency import Group
from strop.training.memory import is_out_of_memory

Criterion = Literal["taylor", "magnitude", "bn"]
Batch = tuple[Mapping[str, Tensor], "Tensor | None"]
"""Inputs by name, and labels where there are any."""

KEPT = 0.1
"""Share of a group's units that stay whatever the ratio."""
_TINY = 1e-12


def unit_scores(
    module: nn.Module,
    form: ModuleForm,
    groups: Sequence[Group],
    criterion: Criterion,
    batches: Iterable[Batch] = (),
) -> dict[str, Tensor]:
    """By a group's root, float64[units]: greater matters more; 1 is a group's mean.

    Scaled so, units of different groups can be compared: each tensor's share is divided by its
    mean over the channels before the tensors are added.

    Parameters
    ----------
    batches
        Examples for ``taylor``; the others look at the weights alone.
    """
    if criterion == "taylor":
        values = _taylor(module, form, groups, batches)
    else:
        values = {name: p.detach().double().square() for name, p in module.named_parameters()}
    scores = {}
    for group in groups:
        count = 1 + max(max(unit) for unit in group.units)
        gammas = [f"{name}.weight" for name in group.norms]
        only_norms = criterion == "bn" and any(name in values for name in gammas)
        total = torch.zeros(count, dtype=torch.float64)
        for entry in group.slices:
            if entry.tensor not in values or (only_norms and entry.tensor not in gammas):
                continue
            value = values[entry.tensor]
            others = [dim for dim in range(value.ndim) if dim != entry.dim]
            by_place = value.sum(others) if others else value
            share = torch.zeros(count, dtype=torch.float64)
            share.index_add_(0, torch.tensor(entry.channels), by_place[list(entry.places)].cpu())
            total += share / (share.mean() + _TINY)
        by_unit = torch.stack([total[list(unit)].sum() for unit in group.units])
        scores[group.root] = by_unit / (by_unit.mean() + _TINY)
    return scores


def counts(
    scores: Mapping[str, np.ndarray],
    sizes: Mapping[str, int],
    widths: Mapping[str, int],
    ratio: float,
    step: int,
    *,
    everywhere: bool = False,
) -> dict[str, int]:
    """By group, how many units stay.

    Parameters
    ----------
    scores
        float64[units] by group.
    sizes
        Channels a unit.
    widths
        Units that each group had at first: `ratio` is of those.
    step
        Channels are rounded to multiples of it, where a group has as many.
    everywhere
        The same share of every group, instead of the least important of all groups together.

    Examples
    --------
    >>> even = {"a": np.ones(32), "b": np.ones(64)}
    >>> counts(even, {"a": 1, "b": 1}, {"a": 32, "b": 64}, 0.5, 8, everywhere=True)
    {'a': 16, 'b': 32}
    """
    if everywhere:
        wanted = {root: (1 - ratio) * widths[root] for root in scores}
    else:
        gone = round(ratio * sum(widths.values())) - sum(
            widths[root] - len(value) for root, value in scores.items()
        )
        ranked = np.sort(np.concatenate(list(scores.values())))
        threshold = ranked[gone - 1] if gone > 0 else -np.inf
        wanted = {root: float((value > threshold).sum()) for root, value in scores.items()}
    kept = {}
    for root, value in scores.items():
        multiple = max(step // sizes[root], 1)
        least = max(1, round(KEPT * widths[root]))
        count = max(wanted[root], least)
        if multiple > 1 and widths[root] > multiple:
            # Half a step is the finest that narrow layers can have without losing everything.
            count = max(round(count / multiple), 1) * multiple
        kept[root] = min(len(value), max(round(count), least))
    return kept


def _taylor(
    module: nn.Module, form: ModuleForm, groups: Sequence[Group], batches: Iterable[Batch]
) -> dict[str, Tensor]:
    """(weight · gradient)², summed over batches, of every tensor that a group touches."""
    wanted = {entry.tensor for group in groups for entry in group.slices}
    parameters = {n: p for n, p in module.named_parameters() if n in wanted}
    frozen = [p for p in parameters.values() if not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    totals = {n: torch.zeros_like(p, dtype=torch.float64) for n, p in parameters.items()}
    try:
        for inputs, labels in batches:
            loss = _loss(form.run(module.eval(), inputs), labels)
            try:
                gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            except Exception as error:  # an operator of the user's own may have no derivative
                if is_out_of_memory(error):
                    raise
                raise NotApplicable(
                    f"its channels cannot be ranked: {describe_error(error)}",
                    hint="what trains nothing still applies",
                ) from error
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
                if gradient is not None:
                    totals[name] += (parameter.detach() * gradient).double().square()
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    return totals


def _loss(outputs: Mapping[str, Tensor], labels: Tensor | None) -> Tensor:
    """What channels are to matter for: the labels, or else the decisions that are made now.

    Not the distance from the teacher: before the first cut it is zero, and so is its gradient.
    Where a label is below 0, which says that there is none, the decision stands in. Outputs that
    are no scores of classes count by their squares.
    """
    parts = []
    for output in outputs.values():
        if not output.is_floating_point():
            continue
        if output.ndim == 2 and output.shape[1] > 1:
            wanted = output.argmax(1)
            if labels is not None and labels.shape == wanted.shape:
                wanted = torch.where(labels < 0, wanted, labels)
            if int(wanted.max()) < output.shape[1]:
                parts.append(functional.cross_entropy(output, wanted))
                continue
        parts.append(output.square().mean())
    if not parts:
        raise NotApplicable("no output is a floating-point number: nothing tells what matters")
    return torch.stack(parts).sum()
