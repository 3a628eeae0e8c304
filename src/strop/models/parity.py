"""How far two sets of outputs lie apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

TINY = 1e-9
"""Added to norms, so that outputs of zeros divide."""


@dataclass(frozen=True)
class Parity:
    """Whether a candidate gives the reference's outputs.

    Attributes
    ----------
    ok
        Whether every row of every output lies within the bound.
    worst_output
        The output with the largest error, or that is missing or of another shape.
    max_relative_error
        The largest relative error of any row; infinite where shapes differ or one side is NaN
        where the other is not.
    """

    ok: bool
    worst_output: str
    max_relative_error: float

    def __str__(self) -> str:
        return f"relative error {self.max_relative_error:.2g} in output '{self.worst_output}'"


def parity(
    reference: Mapping[str, np.ndarray],
    candidate: Mapping[str, np.ndarray],
    *,
    bound: float = 1e-3,
) -> Parity:
    """Compare outputs by name, row by row.

    Examples
    --------
    >>> ones = {"y": np.ones((2, 3), np.float32)}
    >>> parity(ones, {"y": ones["y"] * 1.0001}).ok
    True
    >>> parity(ones, {"y": ones["y"] * 1.1}).worst_output
    'y'
    """
    worst, error = "", -1.0
    for name, expected in reference.items():
        found = relative_error(expected, candidate[name]) if name in candidate else np.inf
        if found > error:
            worst, error = name, found
    return Parity(error <= bound, worst, max(error, 0.0))


def relative_error(reference: np.ndarray, candidate: np.ndarray) -> float:
    """The largest of :func:`relative_errors`; 0 for no rows, infinite for other shapes."""
    if reference.shape != candidate.shape:
        return float("inf")
    errors = relative_errors(reference, candidate)
    return float(errors.max(initial=0.0))


def relative_errors(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """‖candidate − reference‖₂ / ‖reference‖₂ of every row (every example), float64[n].

    Integers, booleans and strings have no distance: a row is 0 when equal, else infinite. The
    same holds for rows with NaN or infinities, which count as equal where both sides agree.

    Parameters
    ----------
    reference, candidate
        Arrays of one shape, examples along dimension 0; a scalar is one example.

    Raises
    ------
    ValueError
        When the shapes differ.
    """
    if reference.shape != candidate.shape:
        raise ValueError(f"shapes differ: {reference.shape} and {candidate.shape}")
    rows = reference.shape[0] if reference.ndim else 1
    if not _is_real(reference) or not _is_real(candidate):
        same = (reference == candidate).reshape(rows, -1).all(axis=1)
        return np.where(same, 0.0, np.inf)
    before = reference.reshape(rows, -1).astype(np.float64)
    after = candidate.reshape(rows, -1).astype(np.float64)
    odd = ~(np.isfinite(before) & np.isfinite(after))
    alike = (before == after) | (np.isnan(before) & np.isnan(after))
    broken = (odd & ~alike).any(axis=1)
    before, after = np.where(odd, 0.0, before), np.where(odd, 0.0, after)
    norms = np.linalg.norm(before, axis=1)
    errors = np.linalg.norm(after - before, axis=1) / (norms + TINY)
    result: np.ndarray = np.where(broken, np.inf, errors)
    return result


def _is_real(array: np.ndarray) -> bool:
    # ml_dtypes' bfloat16 and float8 are of kind "V" for numpy 2 and convert to float64.
    return array.dtype.kind == "f" or (array.dtype.kind == "V" and "float" in array.dtype.name)
