"""The rows that a technique calibrates on, drawn from the data of that role."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from strop.data import Dataset
from strop.errors import NotApplicable
from strop.models.model import Model
from strop.techniques.calibration import Arrays, sample_rows
from strop.techniques.fixed_batch import fixed_batch

CALIBRATION_ROWS = 128
"""Rows that ranges, moments and means are taken over at most."""
SENSITIVITY_ROWS = 16
"""Rows that layers are ranked on: errors are averages over all outputs of all of them."""
_BATCH = 8


@dataclass(frozen=True)
class Rows:
    """Some rows of a dataset, in batches that a model takes.

    Attributes
    ----------
    chosen
        int64[rows], their numbers in `data`, in the order of use.
    size
        Rows of a batch.
    fixed
        Whether the model takes batches of that size alone.
    """

    data: Dataset
    chosen: np.ndarray
    size: int
    fixed: bool

    @classmethod
    def of(cls, model: Model, data: Dataset, seed: int, limit: int = CALIBRATION_ROWS) -> Rows:
        """`limit` rows at most, drawn without replacement under `seed`.

        Raises
        ------
        NotApplicable
            When there is not one batch of them.
        """
        fixed = fixed_batch(model.signature)
        chosen = sample_rows(len(data), limit, seed)
        size = fixed or _BATCH
        if fixed:
            chosen = chosen[: len(chosen) // fixed * fixed]
        if not len(chosen):
            raise NotApplicable(
                f"the model has a fixed batch of {fixed}, but there are {len(data)} rows to "
                "calibrate on"
                if fixed
                else "there are no rows to calibrate on"
            )
        return cls(data, chosen, size, fixed is not None)

    @property
    def source_rows(self) -> list[int]:
        """Their numbers in the source, in the order of use."""
        return [int(row) for row in np.asarray(self.data.rows)[self.chosen]]

    def sample(self) -> Arrays:
        """Some rows at once: as many as the model takes, `SENSITIVITY_ROWS` where it takes any."""
        return self.data.inputs(self.chosen[: self.size if self.fixed else SENSITIVITY_ROWS])

    def batches(self) -> Iterator[Arrays]:
        """Starts a pass over all of them."""
        for start in range(0, len(self.chosen), self.size):
            yield self.data.inputs(self.chosen[start : start + self.size])
