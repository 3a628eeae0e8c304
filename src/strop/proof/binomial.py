"""Exact binomial tests and intervals (Clopper and Pearson, Biometrika 26, 1934, 404-413)."""

from __future__ import annotations

import math


def agreement_p(disagreements: int, n: int, tolerance: float) -> float:
    """Exact one-sided p-value for ``H0: P(disagree) >= tolerance``.

    ``disagreements`` of ``n`` independent examples on which candidate and original decide
    differently. Stricter than a test of accuracy: answers that change cost nothing there as long
    as as many become right as wrong.

    >>> round(agreement_p(0, 299, 0.01), 4)
    0.0495
    """
    from scipy.special import bdtr

    check_counts(disagreements, n=n)
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance is {tolerance}; expected a share between 0 and 1")
    return float(bdtr(float(disagreements), n, tolerance))


def agreement_upper(disagreements: int, n: int, alpha: float) -> float:
    """One-sided Clopper-Pearson upper bound on ``P(disagree)`` at confidence ``1 - alpha``.

    >>> round(agreement_upper(0, 299, 0.05), 5)
    0.00997
    """
    check_counts(disagreements, n=n)
    check_alpha(alpha)
    return (
        clopper_pearson(disagreements, n, 2 * alpha)[1]
        if alpha < 0.5
        else _upper(disagreements, n, alpha)
    )


def clopper_pearson(k: int, n: int, alpha: float) -> tuple[float, float]:
    """Two-sided interval for a proportion, ``k`` of ``n``, at confidence ``1 - alpha``.

    Covers with at least that probability for every true proportion; conservative.

    >>> [round(x, 4) for x in clopper_pearson(5, 100, 0.05)]
    [0.0164, 0.1128]
    """
    check_counts(k, n=n)
    check_alpha(alpha)
    return _lower(k, n, alpha / 2), _upper(k, n, alpha / 2)


def mean_interval(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval for a proportion, for display, not for proof.

    Approximate: its coverage averages ``confidence`` over true proportions (Wilson, JASA 22,
    1927, 209-212; Brown, Cai and DasGupta, Statistical Science 16, 2001, 101-133).

    >>> [round(x, 4) for x in mean_interval(95, 100)]
    [0.8882, 0.9785]
    """
    from scipy.special import ndtri

    check_counts(k, n=n)
    check_alpha(1 - confidence, name="1 - confidence")
    z = float(ndtri((1 + confidence) / 2))
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


def _lower(k: int, n: int, tail: float) -> float:
    from scipy.special import betaincinv

    return 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))


def _upper(k: int, n: int, tail: float) -> float:
    from scipy.special import betaincinv

    return 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - tail))
