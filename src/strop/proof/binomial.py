"""Exact binomial tests and intervals (Clopper and Pearson, Biometrika 26, 1934, 404-413)."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strop.proof.distributions import Floats, binomial_cdf, binomial_chance, normal_quantile


def agreement_p(disagreements: int, n: int, tolerance: float) -> float:
    """Exact one-sided p-value for ``H0: P(disagree) >= tolerance``.

    ``disagreements`` of ``n`` independent examples on which candidate and original decide
    differently. Stricter than a test of accuracy: answers that change cost nothing there as long
    as as many become right as wrong.

    >>> round(agreement_p(0, 299, 0.01), 4)
    0.0495
    """
    check_counts(disagreements, n=n)
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance is {tolerance}; expected a share between 0 and 1")
    return float(binomial_cdf(disagreements, n, tolerance))


def agreement_upper(disagreements: int, n: int, alpha: float) -> float:
    """One-sided Clopper-Pearson upper bound on ``P(disagree)`` at confidence ``1 - alpha``.

    >>> round(agreement_upper(0, 299, 0.05), 5)
    0.00997
    """
    check_counts(disagreements, n=n)
    check_alpha(alpha)
    return float(_upper(np.asarray(disagreements), n, alpha))


@lru_cache(maxsize=256)  # a bound that is searched asks for the same interval at each step
def clopper_pearson(k: int, n: int, alpha: float) -> tuple[float, float]:
    """Two-sided interval for a proportion, ``k`` of ``n``, at confidence ``1 - alpha``.

    Covers with at least that probability for every true proportion; conservative.

    >>> [round(x, 4) for x in clopper_pearson(5, 100, 0.05)]
    [0.0164, 0.1128]
    """
    check_counts(k, n=n)
    check_alpha(alpha)
    low, high = clopper_pearson_ends(np.asarray(k), n, alpha)
    return float(low), float(high)


def clopper_pearson_ends(k: NDArray[Any], n: int, alpha: float) -> tuple[Floats, Floats]:
    """The ends of :func:`clopper_pearson` for many counts of one ``n``, unchecked.

    >>> [end.round(2).tolist() for end in clopper_pearson_ends(np.array([0, 1, 2]), 2, 0.1)]
    [[0.0, 0.03, 0.22], [0.78, 0.97, 1.0]]
    """
    # Seen from the other side: of n examples, n - k are not among the k.
    return 1 - _upper(n - k, n, alpha / 2), _upper(k, n, alpha / 2)


def mean_interval(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval for a proportion, for display, not for proof.

    Approximate: its coverage averages ``confidence`` over true proportions (Wilson, JASA 22,
    1927, 209-212; Brown, Cai and DasGupta, Statistical Science 16, 2001, 101-133).

    >>> [round(x, 4) for x in mean_interval(95, 100)]
    [0.8882, 0.9785]
    """
    check_counts(k, n=n)
    check_alpha(1 - confidence, name="1 - confidence")
    z = normal_quantile((1 + confidence) / 2)
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


def check_counts(*counts: int, n: int) -> None:
    """Raise ``ValueError`` unless the counts are whole, not negative and sum to at most ``n``."""
    if n < 1 or int(n) != n:
        raise ValueError(f"n is {n}; expected at least one example")
    if any(count < 0 or int(count) != count for count in counts) or sum(counts) > n:
        raise ValueError(f"counts {counts} do not fit n = {n}; expected whole numbers within it")


def check_alpha(alpha: float, *, name: str = "alpha") -> None:
    """Raise ``ValueError`` unless ``alpha`` is a probability strictly between 0 and 1."""
    if not 0 < alpha < 1:
        raise ValueError(f"{name} is {alpha}; expected an error rate between 0 and 1, such as 0.05")


def _upper(k: NDArray[Any], n: int, tail: float) -> Floats:
    return np.where(k == n, 1.0, binomial_chance(np.minimum(k, n - 1), n, tail))
