"""Shuffled batches of a dataset, streamed from where it lies, and views of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from strop.data import Dataset
from strop.errors import NotApplicable

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """Some examples.

    Attributes
    ----------
    rows
        Their numbers within the dataset.
    inputs
        By name, on the training device.
    targets
        As the data give them; None without labels.
    """

    rows: np.ndarray
    inputs: Tensors
    targets: torch.Tensor | None


class Loader:
    """Reads batches of `data` by row, never more than one at a time.

    Parameters
    ----------
    augment
        Views of images, as in `TrainSettings`; applied to float inputs ``[n, c, h, w]``.
    """

    def __init__(
        self, data: Dataset, device: torch.device, *, augment: Sequence[str] = (), seed: int = 0
    ) -> None:
        unknown = set(augment) - {"flip", "crop"}
        if unknown:
            raise NotApplicable(f"there is no view called {', '.join(sorted(unknown))}")
        self._data = data
        self._device = device
        self._augment = tuple(augment)
        self._seed = seed

    def read(self, rows: np.ndarray, *, step: int | None = None) -> Batch:
        """The examples with the numbers `rows`; augmented for training step `step`."""
        inputs = {name: self._tensor(array) for name, array in self._data.inputs(rows).items()}
        if self._augment and step is not None:
            rng = np.random.default_rng([self._seed, 7, step])
            inputs = {name: view(tensor, self._augment, rng) for name, tensor in inputs.items()}
        targets = self._data.targets(rows)
        numeric = targets is not None and targets.dtype.kind in "iufb"
        return Batch(rows, inputs, self._tensor(np.asarray(targets)) if numeric else None)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        if array.dtype.name == "bfloat16":
            array = array.astype(np.float32)
        if not array.flags.writeable or not array.flags.c_contiguous:
            array = np.array(array, order="C")
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            array = array.astype(np.int64)  # torch computes with few unsigned types
        return torch.from_numpy(array).to(self._device)


def order(rows: np.ndarray, epoch: int, seed: int, batch: int) -> Iterator[np.ndarray]:
    """Batches of one epoch: a permutation by seed and epoch; the short last one is left out."""
    shuffled = np.random.default_rng([seed, 3, epoch]).permutation(rows)
    for start in range(0, len(shuffled) - batch + 1, batch):
        yield shuffled[start : start + batch]


class Epochs:
    """Which examples each step of a run takes.

    Attributes
    ----------
    rows
        The numbers of those that are trained on.
    batch, steps
        Examples a step, and steps an epoch.
    """

    def __init__(self, rows: np.ndarray, batch: int, seed: int) -> None:
        self.rows, self.batch, self._seed = rows, batch, seed
        self.steps = max(len(rows) // batch, 1)
        self._last: tuple[int, list[np.ndarray]] = (-1, [])

    def batch_at(self, step: int) -> np.ndarray:
        """int64[batch], the examples of step `step`."""
        epoch, place = divmod(step, self.steps)
        if self._last[0] != epoch:
            self._last = (epoch, list(order(self.rows, epoch, self._seed, self.batch)))
        return self._last[1][place]


def full_batches(rows: np.ndarray, batch: int) -> Iterator[tuple[np.ndarray, int]]:
    """All rows in their order, always `batch` of them, and how many of those count.

    The last are filled up with others: a model may insist on its batch.

    Examples
    --------
    >>> [(part.tolist(), count) for part, count in full_batches(np.arange(3), 2)]
    [([0, 1], 2), ([2, 2], 1)]
    """
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        yield np.resize(part, batch), len(part)


def hold_out(data: Dataset, share: float, seed: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers to train on and to judge by; examples of one group stay on one side."""
    groups = data.groups
    names = np.unique(groups)
    wanted = min(int(len(data) * share), most)
    if wanted < 1 or len(names) < 2:
        rows = np.arange(len(data))
        return rows, rows[: min(len(rows), most)]
    shuffled = np.random.default_rng([seed, 1]).permutation(names)
    sizes = dict(zip(*np.unique(groups, return_counts=True), strict=True))
    total, kept = 0, []
    for name in shuffled[:-1]:
        if total >= wanted:
            break
        total += int(sizes[name])
        kept.append(name)
    judged = np.isin(groups, kept)
    return np.flatnonzero(~judged), np.flatnonzero(judged)


def view(images: torch.Tensor, kinds: Sequence[str], rng: np.random.Generator) -> torch.Tensor:
    """Mirrored and shifted copies of float images ``[n, c, h, w]``; anything else as it is."""
    if images.ndim != 4 or not images.is_floating_point():
        return images
    n, _, height, width = images.shape
    if "flip" in kinds:
        mirrored = torch.from_numpy(rng.random(n) < 0.5).to(images.device)
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    if "crop" in kinds:
        reach = max(1, min(height, width) // 8)
        padded = torch.nn.functional.pad(images, (reach,) * 4)
        corners: Any = rng.integers(0, 2 * reach + 1, size=(n, 2))
        images = torch.stack(
            [
                padded[i, :, top : top + height, left : left + width]
                for i, (top, left) in enumerate(corners)
            ]
        )
    return images
