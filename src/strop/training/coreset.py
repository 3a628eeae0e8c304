"""Which training examples to learn from when there is no time for all of them.

Each example is scored by how hard it is for the original: where labels are given by the distance
between its probabilities and the label (EL2N, Paul et al., *Deep learning on a data diet*, NeurIPS
2021, arXiv:2107.07075), else by how unsure it is. The choice then covers all degrees of hardness
and, where there are labels, leaves out the very hardest, which are mostly mistakes in them
(coverage-centric selection, Zheng et al., ICLR 2023, arXiv:2210.15809): taking the hardest alone
is worse than chance when few are taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from strop.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from strop.data import Dataset
    from strop.models.module_form import ModuleForm
    from strop.training.losses import Kind

HARDEST = 0.05
"""Share of the examples, the hardest ones, that are left out while enough others are there."""
STRATA = 50
_BATCH = 256


def coreset(
    data: Dataset,
    form: ModuleForm,
    teacher: nn.Module,
    count: int,
    *,
    seed: int = 0,
    batch: int = _BATCH,
) -> Dataset:
    """`count` informative examples of `data`; all of them when it has no more.

    The teacher sees every example once: it pays where training takes several passes.

    Parameters
    ----------
    form
        How named tensors go through `teacher`.
    """
    if count >= len(data):
        return data
    scores = hardness(data, form, teacher, batch=batch)
    # Without labels the hardest are no mistakes: they are where the original decides.
    hardest = HARDEST if data.has_target else 0.0
    return data.subset(choose(scores, count, seed=seed, hardest=hardest))


def hardness(
    data: Dataset, form: ModuleForm, teacher: nn.Module, *, batch: int = _BATCH
) -> np.ndarray:
    """float64[n]: how hard each example is for `teacher`, 0 for the easiest.

    Of outputs that are scores of classes as :func:`el2n` and :func:`uncertainty` say; of others
    by their distance from the mean output, so that the choice covers what there is.
    """
    import torch

    from strop.models.module_export import as_tensors

    def parts() -> Iterator[tuple[Mapping[str, torch.Tensor], torch.Tensor | None]]:
        teacher.eval()
        for rows, arrays in data.batches(batch):
            with torch.inference_mode():
                outputs = form.run(teacher, as_tensors(arrays, form.inputs))
            targets = data.targets(rows)
            numeric = targets is not None and targets.dtype.kind in "iu"
            yield outputs, torch.from_numpy(np.asarray(targets)) if numeric else None

    return hardness_of(parts())


def hardness_of(
    parts: Iterable[tuple[Mapping[str, torch.Tensor], torch.Tensor | None]],
    kinds: Mapping[str, Kind] | None = None,
) -> np.ndarray:
    """The same of outputs that the teacher has given, batch by batch, with their labels if any.

    Parameters
    ----------
    kinds
        What each output holds; None finds out.
    """
    from strop.training.losses import IGNORED, class_axis, kind_of, labels_for

    found: list[np.ndarray] = []
    others: dict[str, list[np.ndarray]] = {}
    for outputs, given in parts:
        total = np.zeros(len(next(iter(outputs.values()))))
        for name, output in outputs.items():
            output = output.cpu()
            kind = kind_of(output, "auto") if kinds is None else kinds[name]
            if kind not in ("classes", "probabilities"):
                others.setdefault(name, []).append(output.float().flatten(1).numpy())
                continue
            scores = output.float().movedim(class_axis(output), -1)
            scores = scores if kind == "probabilities" else scores.softmax(-1)
            chances = scores.numpy().astype(np.float64)
            part = uncertainty(chances)
            labels = labels_for(kind, output, None if given is None else given.cpu())
            if labels is not None:
                known = (labels != IGNORED).numpy()
                part = np.where(known, el2n(chances, labels.numpy()), part)
            total += part.reshape(len(total), -1).mean(1)
        found.append(total)
    result = np.concatenate(found)
    for arrays in others.values():
        values = np.concatenate(arrays).astype(np.float64)
        distance = np.linalg.norm(values - values.mean(0), axis=1)
        result = result + distance / max(float(distance.mean()), 1e-12)
    return result


def el2n(chances: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """‖probabilities − one-hot label‖₂ along the last axis, within [0, √2].

    Examples
    --------
    >>> el2n(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([0, 0])).round(3).tolist()
    [0.0, 0.707]
    """
    wanted = np.eye(chances.shape[-1])[np.clip(labels, 0, chances.shape[-1] - 1)]
    distance: np.ndarray = np.linalg.norm(chances - wanted, axis=-1)
    return distance


def uncertainty(chances: np.ndarray) -> np.ndarray:
    """1 − the lead of the likeliest class over the second, along the last axis.

    Examples
    --------
    >>> uncertainty(np.array([[1.0, 0.0], [0.5, 0.5], [0.75, 0.25]])).tolist()
    [0.0, 1.0, 0.5]
    """
    best = np.sort(chances, axis=-1)
    lead: np.ndarray = best[..., -1] - best[..., -2]
    return 1 - lead


def choose(
    hardness: np.ndarray,
    count: int,
    *,
    seed: int = 0,
    hardest: float = HARDEST,
    strata: int = STRATA,
) -> np.ndarray:
    """Row numbers int64[count], sorted: as many from each degree of hardness as it has.

    The range of `hardness` is cut into strata of equal length; those with few examples give all
    they have, and the others share what is left.

    Raises
    ------
    InputError
        When `count` is below 1 or above the number of examples.

    Examples
    --------
    >>> easy_and_hard = np.concatenate([np.zeros(90), np.linspace(0.5, 1.0, 10)])
    >>> chosen = choose(easy_and_hard, 20, hardest=0.0, strata=2)
    >>> int((chosen >= 90).sum())
    10
    """
    total = len(hardness)
    if not 1 <= count <= total:
        raise InputError(f"{count} of {total} examples cannot be chosen")
    rng = np.random.default_rng([seed, 17])
    # Ties, of which there are many among the easiest, are broken by chance.
    order = np.lexsort((rng.permutation(total), hardness))
    kept = order[: max(total - int(hardest * total), count)]
    values = hardness[kept]
    edges = np.linspace(values.min(), values.max(), strata + 1)
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, strata - 1)
    groups = [rng.permutation(kept[place == number]) for number in np.unique(place)]
    groups.sort(key=len)
    chosen: list[np.ndarray[Any, Any]] = []
    left = count
    for number, group in enumerate(groups):
        share = -(-left // (len(groups) - number))
        chosen.append(group[: min(share, left)])
        left -= len(chosen[-1])
    return np.sort(np.concatenate(chosen)).astype(np.int64)
