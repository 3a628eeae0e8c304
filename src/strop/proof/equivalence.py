"""The claim *equivalent*: the same outputs and the same decisions, on every example."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

RELATIVE_ERROR = 1e-3
"""Largest relative error at which two outputs count as the same."""


@dataclass(frozen=True)
class Equivalence:
    """How far outputs lie apart: the largest relative error, and decisions changed, of ``n``."""

    n: int
    max_relative_error: float
    decisions_changed: int

    @property
    def holds(self) -> bool:
        """Whether all ``n`` examples agree within ``RELATIVE_ERROR`` and decide the same."""
        return self.max_relative_error <= RELATIVE_ERROR and self.decisions_changed == 0


def equivalence(
    reference: ArrayLike, candidate: ArrayLike, *, decides: bool = False
) -> Equivalence:
    """Compare one output over all examples; no statistics, no minimum number of examples.

    ``reference``, ``candidate`` [n, …]. The relative error of an example is its largest absolute
    difference over its largest absolute reference value, so that entries near zero do not
    blow it up. ``decides``: the last axis holds scores of classes, and its argmax is the
    decision. Integers and booleans, and NaN and infinite values, must match exactly.

    >>> equivalence([[1.0, 2.0]], [[1.0, 2.001]], decides=True).holds
    True
    >>> equivalence([[1.0, 1.0001]], [[1.0001, 1.0]], decides=True).decisions_changed
    1
    """
    left, right = np.asarray(reference), np.asarray(candidate)
    if left.shape != right.shape or left.ndim == 0 or not len(left):
        raise ValueError(
            f"outputs have shapes {left.shape} and {right.shape}; expected the same, [n, …]"
        )
    n = len(left)
    changed = 0
    if decides and left.ndim >= 2:
        differs = np.argmax(left, axis=-1) != np.argmax(right, axis=-1)
        changed = int(np.sum(differs.reshape(n, -1).any(axis=1)))
    a, b = left.reshape(n, -1), right.reshape(n, -1)
    if not (np.issubdtype(a.dtype, np.floating) and np.issubdtype(b.dtype, np.floating)):
        differs = (a != b).any(axis=1)
        return Equivalence(n, np.inf if differs.any() else 0.0, max(changed, int(differs.sum())))
    if not a.shape[1]:
        return Equivalence(n, 0.0, 0)
    a, b = a.astype(np.float64), b.astype(np.float64)
    special = ~(np.isfinite(a) & np.isfinite(b))
    if not np.array_equal(a[special], b[special], equal_nan=True):
        return Equivalence(n, np.inf, changed)
    a, b = np.where(special, 0.0, a), np.where(special, 0.0, b)
    error = np.abs(a - b).max(axis=1)
    scale = np.abs(a).max(axis=1)
    relative = np.divide(error, scale, out=np.where(error > 0, np.inf, 0.0), where=scale > 0)
    return Equivalence(n, float(relative.max()), changed)
