"""The distribution functions that the tests of this room stand on, from numpy alone.

SciPy has all of them, and weighs more than the rest of strop's core together. What is here is held
against SciPy and against 40-digit arithmetic in ``tests/proof/test_distributions.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]

_SHIFT_OF_MEAN = 0.1  # |k - np| below this share of k + np: the logarithm is summed as a series
_SERIES = 8  # terms of it: 0.1^(2 * 9) is below the last bit
_EXACT_FACTORIALS = 16  # from here on, Stirling's series with five terms is exact to the last bit
_NEVER = 1e-300  # chances below this are zero: their reciprocals would overflow
_LAST_BIT = 2.0**-54
_SETTLED = 1e-9  # after a step this short Newton's method is exact: the next is its square
_MOST_STEPS = 60  # halving alone would reach the last bit of 1


def binomial_pmf(k: ArrayLike, n: ArrayLike, p: ArrayLike) -> Floats:
    """``P(X = k)`` for ``X`` binomial of ``n`` trials with chance ``p``; broadcasts.

    ``k`` whole numbers in ``[0, n]``, ``p`` in [0, 1]. Computed from the saddle-point expansion
    (Loader, "Fast and accurate computation of binomial probabilities", 2000): the difference of
    three large log-factorials would lose as many digits as they have before the point.

    >>> binomial_pmf([0, 1, 2], 2, 0.5).round(15).tolist()
    [0.25, 0.5, 0.25]
    """
    k, n, p = _broadcast(k, n, p)
    inside = (k > 0) & (k < n) & (p > 0) & (p < 1)
    # Outside that, the power of the chance that is left is the whole of it, and 0^0 is 1.
    with np.errstate(divide="ignore", invalid="ignore"):
        zero = np.where(p < 1, np.exp(n * np.log1p(-p)), np.where(n == 0, 1.0, 0.0))
        all_ = np.where(n == 0, 1.0, np.where(p > 0, np.exp(n * np.log(p)), 0.0))
    result = np.where(k == 0, zero, np.where(k == n, all_, 0.0))
    k, n, p = k[inside], n[inside], p[inside]
    rest = n - k
    log = _stirling_error(n) - _stirling_error(k) - _stirling_error(rest)
    log -= _deviance(k, n * p) + _deviance(rest, n * (1 - p))
    result[inside] = np.exp(log) * np.sqrt(n / (2 * math.pi * k * rest))
    return np.asarray(result, dtype=np.float64)


def binomial_cdf(k: ArrayLike, n: ArrayLike, p: ArrayLike) -> Floats:
    """``P(X <= k)`` for ``X`` binomial of ``n`` trials with chance ``p``; broadcasts.

    ``k`` whole numbers up to ``n``, 0 below zero; ``p`` in [0, 1]. The tail that does not hold
    the mean is summed from its largest term on: all terms are positive and fall faster than
    geometrically, so that nothing cancels and the relative error stays near that of the first.

    >>> float(binomial_cdf(4, 299, 0.01).round(12))
    0.81779425529
    >>> binomial_cdf([-1, 0, 2], 2, 0.5).tolist()
    [0.0, 0.25, 1.0]
    """
    k, n, p = _broadcast(k, n, p)
    result = np.where(k < 0, 0.0, 1.0)
    inside = (k >= 0) & (k < n)
    k, n, p = k[inside], n[inside], p[inside]
    under = k < n * p
    # The upper tail of X is the lower tail of the trials that fail.
    tail = np.where(under, k, n - k - 1)
    share = np.where(under, p, 1 - p)
    sums = _lower_tail(tail, n, share, 1 - share)
    result[inside] = np.where(under, sums, 1 - sums)
    return np.asarray(result, dtype=np.float64)


def staircase_cdf(k: Floats, n: Floats, p: Floats) -> Floats:
    """``P(X <= k)``, all at once, where ``n`` falls by one with each column and ``k`` never falls.

    ``k`` and ``n`` float[rows, columns] of whole numbers, ``p`` float[rows, 1]. From a column to
    the next ``P(X <= k)`` grows by the chance that the trial left out was what lifted ``X`` over
    ``k``, and by those of the counts that ``k`` passes: sums of positive terms, at a fraction of
    the cost of as many calls of :func:`binomial_cdf`. Where ``k`` does fall, it is called.

    >>> staircase_cdf(np.array([[0.0, 1.0]]), np.array([[2.0, 1.0]]), np.array([[0.5]])).tolist()
    [[0.25, 1.0]]
    """
    sure = (k >= n) | ((p < _NEVER) & (k >= 0))
    # A row may be sure from some column on; how its counts go on from there is no matter.
    rise = np.where(sure[:, 1:], 0.0, np.diff(k, axis=1))
    if (rise < 0).any():
        return binomial_cdf(k, n, p)
    trials, above = n[:, 1:], k[:, 1:]
    odds = (1 - p) / np.maximum(p, _NEVER)
    term = binomial_pmf(above, trials, p)
    growth = np.where(rise > 0, term, p * term)
    for passed in range(1, int(rise.max(initial=0)) + 1):
        below = np.maximum(trials - above + passed, 1.0)
        term = term * odds * (above - passed + 1) / below
        growth += np.where(passed < rise, term, np.where(passed == rise, p * term, 0.0))
    result = np.empty_like(k)
    result[:, :1] = binomial_cdf(k[:, :1], n[:, :1], p)
    result[:, 1:] = growth
    np.cumsum(result, axis=1, out=result)
    return np.where(sure, 1.0, np.minimum(result, 1.0))


def binomial_chance(k: ArrayLike, n: int, level: float) -> Floats:
    """The ``p`` at which ``P(X <= k)`` is ``level``: the end of a Clopper-Pearson interval.

    ``k`` whole numbers in ``[0, n)``, ``level`` in (0, 1). The inverse, in ``p``, of
    :func:`binomial_cdf`: Newton's method from where the normal distribution would have it,
    with halving where a step would leave what is known to hold the root.

    >>> float(binomial_chance(0, 299, 0.05).round(6))
    0.009969
    """
    k = np.asarray(k, dtype=np.float64)
    low, high = np.zeros_like(k), np.ones_like(k)
    p = _normal_chance(k, n, normal_quantile(level))
    for _ in range(_MOST_STEPS):
        excess = binomial_cdf(k, n, p) - level  # falls as p grows
        low, high = np.where(excess > 0, p, low), np.where(excess > 0, high, p)
        step = p + excess / np.maximum(n * binomial_pmf(k, n - 1, p), _NEVER)
        settled = np.abs(step - p) <= _SETTLED * p
        p = np.where(settled | ((low < step) & (step < high)), step, (low + high) / 2)
        if settled.all():
            break
    return np.asarray(p)


def normal_quantile(p: float) -> float:
    """The standard normal quantile (Wichura, Applied Statistics 37, 1988, 477-484).

    >>> round(normal_quantile(0.975), 6)
    1.959964
    """
    from statistics import NormalDist

    return NormalDist().inv_cdf(p)


def normal_cdf(x: float) -> float:
    """The standard normal distribution function.

    >>> round(normal_cdf(1.959964), 6)
    0.975
    """
    return math.erfc(-x / math.sqrt(2)) / 2


def student_t_quantile(freedom: int, p: float) -> float:
    """The quantile of Student's t for a whole number of degrees of freedom, ``p`` in (0, 1).

    The distribution function is a finite sum of powers of a cosine (Abramowitz and Stegun,
    26.7.3 and 26.7.4); its angle is found by halving.

    >>> round(student_t_quantile(4, 0.975), 6)
    2.776445
    """
    if p < 0.5:
        return -student_t_quantile(freedom, 1 - p)
    angle = _root(lambda angle: _two_sided(angle, freedom) - (2 * p - 1), 0.0, math.pi / 2)
    return math.sqrt(freedom) * math.tan(angle)


def _broadcast(k: ArrayLike, n: ArrayLike, p: ArrayLike) -> tuple[Floats, Floats, Floats]:
    chance = np.asarray(p, dtype=np.float64)
    possible = np.where(chance < _NEVER, 0.0, chance)
    whole = (np.asarray(it, dtype=np.float64) for it in (k, n))
    k, n, p = np.broadcast_arrays(*whole, possible)
    return k, n, p


def _normal_chance(k: Floats, n: int, z: float) -> Floats:
    """Wilson's score interval, with a continuity correction."""
    count = k + 0.5
    half = z * np.sqrt(count * (n - count) / n + z * z / 4)
    return np.asarray((count + z * z / 2 - half) / (n + z * z))


def _lower_tail(k: Floats, n: Floats, p: Floats, q: Floats) -> Floats:
    """``P(X <= k)`` summed downwards from ``k``, each ``k`` below the mean."""
    first = binomial_pmf(k, n, p)
    sums = first.copy()
    term = first
    left = np.flatnonzero(first)
    k, odds, miss, term = k[left], (q / p)[left], (n - k + 1)[left], term[left]
    while len(left):
        term = term * (k * odds / miss)
        sums[left] += term
        # Few leave at a time: to gather the rest anew in each round would cost more than it saves.
        more = term > sums[left] * _LAST_BIT
        if np.count_nonzero(more) <= 0.8 * len(left):
            left, term = left[more], term[more]
            k, odds, miss = k[more], odds[more], miss[more]
        k, miss = k - 1, miss + 1
    return sums


def _deviance(k: Floats, mean: Floats) -> Floats:
    """``k log(k / mean) + mean - k``, without cancellation where the two are close."""
    share = (k - mean) / (k + mean)
    square = share * share
    total = np.zeros_like(square)
    for j in range(_SERIES, 0, -1):
        total = (total + 1 / (2 * j + 1)) * square
    near = (k - mean) * share + 2 * k * share * total
    far = k * np.log(k / mean) + mean - k
    return np.where(np.abs(share) < _SHIFT_OF_MEAN, near, far)


def _stirling_error(n: Floats) -> Floats:
    """``log(n!)`` less Stirling's formula, for whole ``n >= 1``."""
    square = n * n
    series = (
        1 / 12 - (1 / 360 - (1 / 1260 - (1 / 1680 - 1 / 1188 / square) / square) / square) / square
    ) / n
    small = _small_stirling_errors()[np.minimum(n, _EXACT_FACTORIALS - 1).astype(np.intp)]
    return np.where(n < _EXACT_FACTORIALS, small, series)


@cache
def _small_stirling_errors() -> Floats:
    from decimal import Decimal, localcontext

    with localcontext() as context:
        context.prec = 40
        log_root = (2 * Decimal("3.14159265358979323846264338327950288419717")).ln() / 2
        errors = [
            Decimal(math.factorial(n)).ln() - (n + Decimal("0.5")) * Decimal(n).ln() + n - log_root
            for n in range(1, _EXACT_FACTORIALS)
        ]
    return np.array([0.0, *map(float, errors)])


def _two_sided(angle: float, freedom: int) -> float:
    """``P(|T| < sqrt(freedom) * tan(angle))``."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for j in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine * cosine * (j - 1) / j
    return (angle + sine * total) * 2 / math.pi if odd else sine * total


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    while True:
        middle = (low + high) / 2
        if not low < middle < high:
            return middle
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
