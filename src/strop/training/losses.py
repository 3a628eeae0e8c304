"""Losses between a student and its teacher, and the quality that training is judged by.

Classes: Hinton, Vinyals and Dean, *Distilling the knowledge in a neural network* (2015,
arXiv:1503.02531). Embeddings: cosine distance. Values: squared error relative to the teacher's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch.nn import functional

from strop.training.settings import Task

Tensors = Mapping[str, torch.Tensor]
Kind = Literal["classes", "probabilities", "cosine", "values"]
IGNORED = -100
"""The label of what has none, as in torch's cross entropy."""
_TINY = 1e-8
_UNIT = 1e-3


def kind_of(output: torch.Tensor, task: Task) -> Kind:
    """What one output of the teacher holds: float[n, …].

    ``auto`` takes rows of length one for embeddings, and other float[n, C] for class scores.
    """
    if not output.is_floating_point():
        return "values"
    values = output.detach().float()
    axis = class_axis(values)
    classes = values.ndim >= 2 and values.shape[axis] > 1
    if task == "cosine" and values.ndim >= 2:
        return "cosine"
    if task == "values" or not classes:
        return "values"
    sums = values.sum(axis)
    if bool((values >= 0).all()) and bool(((sums - 1).abs() < _UNIT).all()):
        return "probabilities"
    if task == "classes":
        return "classes"
    if values.ndim == 2 and bool(((values.norm(dim=axis) - 1).abs() < _UNIT).all()):
        return "cosine"
    return "classes" if values.ndim == 2 else "values"


def class_axis(output: torch.Tensor) -> int:
    """Where the classes lie: second in [n, C] and in images [n, C, h, w], last in [n, t, C]."""
    return -1 if output.ndim == 3 else min(1, output.ndim - 1)


def output_loss(
    kind: Kind,
    student: torch.Tensor,
    teacher: torch.Tensor,
    targets: torch.Tensor | None,
    *,
    temperature: float,
    label_weight: float,
) -> torch.Tensor:
    """The loss on one output, a scalar near 1 or below for an untrained student.

    Parameters
    ----------
    targets
        int64 labels where the output holds classes and labels are given; else None. What is
        `IGNORED` among them has the teacher alone.
    """
    student, teacher = student.float(), teacher.float()
    if kind in ("classes", "probabilities"):
        axis = class_axis(teacher)
        scores, wanted = _scores(kind, student), _scores(kind, teacher)
        soft = functional.kl_div(
            functional.log_softmax(scores / temperature, axis),
            functional.log_softmax(wanted / temperature, axis),
            reduction="none",
            log_target=True,
        )
        loss = soft.sum(axis).mean() * temperature**2
        if targets is None or label_weight <= 0:
            return loss
        # The mean over those that are labelled, of which a batch may hold none.
        hard = functional.cross_entropy(
            scores.movedim(axis, 1), targets, ignore_index=IGNORED, reduction="sum"
        ) / (targets != IGNORED).sum().clamp_min(1)
        return (1 - label_weight) * loss + label_weight * hard
    if kind == "cosine":
        return 1 - functional.cosine_similarity(student, teacher, dim=-1).mean()
    scale = teacher.square().mean().clamp_min(_TINY)
    return (student - teacher).square().mean() / scale


def labels_for(
    kind: Kind, output: torch.Tensor, targets: torch.Tensor | None
) -> torch.Tensor | None:
    """The targets as class numbers of `output`, or None where they are none."""
    if targets is None or kind not in ("classes", "probabilities") or targets.is_floating_point():
        return None
    axis = class_axis(output) % output.ndim
    shape = tuple(size for place, size in enumerate(output.shape) if place != axis)
    if tuple(targets.shape) == (*shape, 1):
        targets = targets.squeeze(-1)
    return targets.long() if tuple(targets.shape) == shape else None


def quality_of(
    kind: Kind,
    student: torch.Tensor,
    teacher: torch.Tensor | None,
    targets: torch.Tensor | None,
) -> torch.Tensor:
    """Per example, higher is better: whether the decision is right, or closeness in [-inf, 1].

    NaN for an example whose labels are all `IGNORED`.
    """
    student = student.float()
    if kind in ("classes", "probabilities"):
        decided = student.argmax(class_axis(student))
        if targets is not None:
            wanted = targets
        else:
            assert teacher is not None
            wanted = teacher.argmax(class_axis(teacher))
        right = (decided == wanted).float().masked_fill(wanted == IGNORED, torch.nan)
        return right.reshape(len(right), -1).nanmean(1)
    assert teacher is not None
    teacher = teacher.float()
    if kind == "cosine":
        cosine = functional.cosine_similarity(student, teacher, dim=-1)
        return cosine.flatten(1).mean(1) if cosine.ndim > 1 else cosine
    error = (student - teacher).square().reshape(len(teacher), -1).mean(1)
    return 1 - error / teacher.square().mean().clamp_min(_TINY)


def _scores(kind: Kind, output: torch.Tensor) -> torch.Tensor:
    """Logits; of probabilities their logarithm, which is a logit up to a constant."""
    return output.clamp_min(1e-7).log() if kind == "probabilities" else output
