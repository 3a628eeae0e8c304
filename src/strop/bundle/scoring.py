"""Outputs and scores of a session over examples, batch by batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np

from strop.bundle.sample import fixed_batch, repeated
from strop.records import Signature

if TYPE_CHECKING:
    from strop.data import Dataset

Arrays = Mapping[str, np.ndarray]


class Runs(Protocol):
    """A session or a bundle."""

    @property
    def signature(self) -> Signature: ...

    def run(self, arrays: Arrays) -> dict[str, np.ndarray]: ...


def outputs_of(session: Runs, inputs: Arrays, batch: int | None = None) -> dict[str, np.ndarray]:
    """The outputs for all rows, in calls of `batch` rows (all at once by default).

    A model with a fixed batch dimension gets calls of that size, the last one filled up.
    """
    total = len(next(iter(inputs.values())))
    fixed = fixed_batch(session.signature)
    size = fixed or batch or total
    parts = []
    for start in range(0, total, size):
        rows = {name: array[start : start + size] for name, array in inputs.items()}
        count = min(size, total - start)
        outputs = session.run(repeated(rows, fixed) if fixed else rows)
        parts.append(outputs if count == size else {n: it[:count] for n, it in outputs.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def outputs_on(session: Runs, dataset: Dataset, batch: int) -> dict[str, np.ndarray]:
    """The outputs for all examples of a dataset, which is read batch by batch."""
    size = fixed_batch(session.signature) or batch
    parts = [outputs_of(session, inputs, size) for _, inputs in dataset.batches(size)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
