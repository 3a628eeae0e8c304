"""Exact paired non-inferiority test for 0/1 scores.

Each example lands in one of three cells: only the reference is right (count ``b``, probability
``p10``), only the candidate is right (``c``, ``p01``), or both are equally right. The drop is
``E[d] = p10 - p01``; the hypothesis to be rejected is ``E[d] >= tolerance``.

Statistic: the score statistic of Tango (Statistics in Medicine 17, 1998, 891-908). Its
p-value is exact and unconditional (Hsueh, Liu and Chen, Biometrics 57, 2001, 478-483), with the
nuisance ``p01`` held to a confidence interval (Berger and Boos, JASA 89, 1994, 1012-1016).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from strop.proof.binomial import (
    check_alpha,
    check_counts,
    clopper_pearson,
    clopper_pearson_ends,
)
from strop.proof.distributions import (
    Floats,
    binomial_cdf,
    binomial_pmf,
    normal_quantile,
    staircase_cdf,
)

GAMMA = 1e-3
"""Probability that ``p01`` lies outside its interval; added to the p-value."""


def gamma_for(alpha: float) -> float:
    """``GAMMA``, or a fiftieth of a small alpha: a later run in the ledger can still prove.

    >>> gamma_for(0.05), gamma_for(0.005)
    (0.001, 0.0001)
    """
    return min(GAMMA, alpha / 50)


_GRID_STEP = 0.2  # distance of nuisance grid points, in standard errors of arcsin(sqrt(c / n))
_LEAST_GRID = 400  # and at least this many, as for few examples a step is a wide one
_CRITICAL_STEP = 4e-4  # precision of critical values of z before close calls are decided
_TIE = 1e-9  # statistics this close count as equal, towards the larger p-value

Ints = NDArray[np.int64]


def trinomial_p(b: int, c: int, n: int, tolerance: float, *, gamma: float = GAMMA) -> float:
    """Exact one-sided p-value for ``H0: E[d] >= tolerance``.

    Parameters: ``b`` examples that only the reference got right, ``c`` that only the candidate
    got right, of ``n``; ``tolerance`` in (-1, 1), a share of examples (0.01 is one point);
    ``gamma`` fixed before the data are seen, below the level aimed at (:func:`gamma_for`).
    Assumes independent examples from one population, and counts that were not used to choose the
    candidate. Raises ``ValueError`` on counts that do not fit.

    The p-value is ``gamma + max P(Z <= z | p01, p10 = p01 + tolerance)`` over ``p01`` in its
    ``1 - gamma`` Clopper-Pearson interval. ``p10`` needs no search: for each ``p01`` the set
    ``Z <= z`` is a lower set in ``b``, so its probability only falls as ``p10`` grows. The
    maximum is taken over a grid that covers the interval in steps of at most a fifth of a
    standard error; the mass that falls outside the summed window (below 1e-7) is added.

    >>> round(trinomial_p(0, 0, 301, 0.01), 4)
    0.0496
    >>> trinomial_p(20, 5, 1000, 0.01) > 0.5
    True
    """
    check_counts(b, c, n=n)
    _check_tolerance(tolerance)
    z = float(tango_z(np.float64(b), np.float64(c), n, tolerance))
    grid = _nuisance_grid(n, tolerance)
    low, high = _grid_slice(grid, *clopper_pearson(c, n, gamma))
    nuisance = grid[low:high]
    cells = _cells(n, nuisance)
    threshold = _largest_b(z + _TIE * (1 + abs(z)), cells.c, n, tolerance)
    return min(1.0, gamma + float(cells.probability(threshold, tolerance).max()))


def trinomial_upper(b: int, c: int, n: int, alpha: float) -> float:
    """Upper bound on ``E[d]`` at confidence ``1 - alpha``: every larger drop is rejected.

    Inverts :func:`trinomial_p`, with ``gamma_for(alpha)``, in the tolerance, to 1e-6. May be
    negative (the candidate is better). Assumptions as there.

    >>> round(trinomial_upper(0, 0, 301, 0.05), 4)
    0.01
    """
    check_counts(b, c, n=n)
    check_alpha(alpha)
    gamma = gamma_for(alpha)

    def rejected(tolerance: float) -> bool:
        return trinomial_p(b, c, n, tolerance, gamma=gamma) <= alpha

    low, high = (b - c) / n, 1.0
    # The score bound without the exact calibration brackets the answer closely.
    guess = _score_upper(b, c, n, alpha)
    for factor in (1.1, 1.5, 3.0):
        candidate = low + factor * (guess - low)
        if candidate >= 1:
            break
        if rejected(candidate):
            high = candidate
            break
    while high - low > 1e-6:
        middle = (low + high) / 2
        if rejected(middle):
            high = middle
        else:
            low = middle
    if high <= 0 and not rejected(0.0):
        return 0.0  # at tolerance 0 alone many counts tie, so that p can jump up there
    return high


def tango_z(
    b: Floats | np.float64, c: Floats | np.float64, n: int, tolerance: float
) -> Floats | np.float64:
    """Tango's score statistic; small values speak against ``E[d] >= tolerance``."""
    q = _restricted_p01(b, c, n, tolerance)
    variance = n * (2 * q + tolerance * (1 - tolerance))
    difference = b - c - n * tolerance
    # Zero variance: tolerance 0 and no discordant pair, which says nothing either way.
    return np.where(variance > 0, difference / np.sqrt(np.where(variance > 0, variance, 1)), 0.0)


@dataclass(frozen=True)
class RejectionRegion:
    """All ``(b, c)`` with p at most alpha: for ``c`` up to ``len - 1``, ``b <= limit``.

    ``limit[c]`` is -1 where no ``b`` is rejected.
    """

    n: int
    tolerance: float
    alpha: float
    limit: Ints

    def contains(self, b: NDArray[np.integer], c: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Whether each pair of counts proves the tolerance. Raises where ``c`` is not covered."""
        return np.asarray(b <= self.limit[c])

    def probability(self, p01: float, p10: float) -> float:
        """Exact chance that the counts fall in the region, up to the mass beyond ``limit``."""
        c = np.arange(len(self.limit), dtype=np.float64)
        weight = binomial_pmf(c, self.n, p01)
        share = min(1.0, p10 / (1 - p01)) if p01 < 1 else 0.0
        inside = self.limit >= 0
        trials = self.n - c[inside]
        limit = np.minimum(self.limit[inside], trials)
        return float(np.sum(weight[inside] * binomial_cdf(limit, trials, share)))


@lru_cache(maxsize=64)
def rejection_region(n: int, tolerance: float, alpha: float, c_max: int) -> RejectionRegion:
    """The counts that prove ``tolerance``, for ``c`` from 0 to ``c_max``.

    Same decisions as :func:`trinomial_p` with ``gamma_for(alpha)``, found by the critical value
    of ``Z`` at each nuisance grid point; cached, so that simulations and power calculations look
    decisions up.

    >>> rejection_region(301, 0.01, 0.05, 2).limit.tolist()
    [0, 0, 1]
    """
    _check_tolerance(tolerance)
    check_alpha(alpha)
    c = np.arange(min(c_max, n) + 1, dtype=np.float64)
    gamma = gamma_for(alpha)
    grid = _nuisance_grid(n, tolerance)
    ends = zip(*clopper_pearson_ends(c, n, gamma), strict=True)
    slices = [_grid_slice(grid, float(low), float(high)) for low, high in ends]
    first, last = slices[0][0], max(high for _, high in slices)
    critical = _critical_z(n, tolerance, alpha - gamma, grid[first:last])
    per_c = np.array([critical[low - first : high - first].min() for low, high in slices])
    limit = _largest_b(per_c, c, n, tolerance)
    # Critical values are rounded towards not rejecting: ask the test itself about close calls.
    following = tango_z(limit + 1, c, n, tolerance)
    close = (following <= per_c + 3 * _CRITICAL_STEP) & (limit + 1 + c <= n)
    for k in np.flatnonzero(close):
        if trinomial_p(int(limit[k]) + 1, int(k), n, tolerance, gamma=gamma) <= alpha:
            limit[k] += 1
    whole = limit.astype(np.int64)
    whole.setflags(write=False)  # shared through the cache
    return RejectionRegion(n, tolerance, alpha, whole)


def _critical_z(n: int, tolerance: float, level: float, nuisance: Floats) -> Floats:
    """Largest z, per nuisance value, with ``P(Z <= z) <= level``, at most a step too small."""
    cells = _cells(n, nuisance)

    def search(low: float, high: float, rows: NDArray[np.intp]) -> tuple[Floats, Floats]:
        part = cells.rows(rows)
        z_low, z_high = np.full(len(rows), low), np.full(len(rows), high)
        b_low = _largest_b(z_low[:, None], part.c, n, tolerance)
        b_high = _largest_b(z_high[:, None], part.c, n, tolerance)
        while float((z_high - z_low).max()) > _CRITICAL_STEP:
            z = (z_low + z_high) / 2
            slack = _TIE * (1 + np.abs(z))
            b = _largest_b((z + slack)[:, None], part.c, n, tolerance, b_low, b_high + 1)
            below = part.probability(b, tolerance) <= level
            z_low, z_high = np.where(below, z, z_low), np.where(below, z_high, z)
            b_low = np.where(below[:, None], b, b_low)
            b_high = np.where(below[:, None], b_high, b)
        return z_low, z_high

    # Nearly all critical values lie near the normal quantile; search widely for the rest only.
    near = (-1.9, -1.5) if 0.035 < level < 0.06 else (-4.0, 0.0)
    low, high = search(*near, np.arange(len(nuisance)))
    missed = np.flatnonzero((low == near[0]) | (high == near[1]))
    if len(missed):
        low[missed], _ = search(-60.0, 20.0, missed)
    return low


@dataclass(frozen=True)
class _Cells:
    """For each nuisance value, the window of ``c`` that holds all but 1e-7 of its mass."""

    n: int
    nuisance: Floats  # [nuisance]
    c: Floats  # [nuisance, window]
    weight: Floats  # [nuisance, window]
    missing: Floats  # [nuisance]

    def rows(self, index: NDArray[np.intp]) -> _Cells:
        return _Cells(
            self.n, self.nuisance[index], self.c[index], self.weight[index], self.missing[index]
        )

    def probability(self, threshold: Floats, tolerance: float) -> Floats:
        """``P(b <= threshold[c])`` for each nuisance value, rounded up by the missing mass."""
        p10 = np.maximum(self.nuisance + tolerance, 0.0)
        share = np.minimum(p10 / (1 - self.nuisance), 1.0)[:, None]
        trials = self.n - self.c
        cdf = staircase_cdf(threshold, trials, share)
        inside = np.sum(self.weight * cdf, axis=1)
        return np.asarray(inside + self.missing, dtype=np.float64)


def _cells(n: int, nuisance: Floats) -> _Cells:
    mean = n * nuisance
    spread = np.sqrt(mean * (1 - nuisance))
    low = np.maximum(np.floor(mean - 5.5 * spread - 3), 0)
    high = np.minimum(np.ceil(mean + 5.5 * spread + 10), n)
    window = low[:, None] + np.arange(int((high - low).max()) + 1)
    inside = window <= n
    c = np.where(inside, window, n)
    weight = np.where(inside, binomial_pmf(c, n, nuisance[:, None]), 0.0)
    return _Cells(n, nuisance, c, weight, np.maximum(0.0, 1 - weight.sum(axis=1)))


def _largest_b(
    z: Floats | float,
    c: Floats,
    n: int,
    tolerance: float,
    low: Floats | float = -1.0,
    high: Floats | float | None = None,
) -> Floats:
    """Largest ``b`` with ``tango_z(b, c) <= z``, -1 where none; the statistic rises with ``b``.

    ``low`` is known to qualify (or -1), ``high`` not to.
    """
    shape = np.broadcast_shapes(np.shape(z), c.shape)
    low = np.broadcast_to(low, shape)
    high = np.broadcast_to(n - c + 1 if high is None else np.minimum(high, n - c + 1), shape)
    while float((high - low).max()) > 1:
        middle = np.floor((low + high) / 2)
        unknown = high - low > 1
        below = tango_z(middle, c, n, tolerance) <= z
        low = np.where(unknown & below, middle, low)
        high = np.where(unknown & ~below, middle, high)
    return np.array(low)


def _restricted_p01(
    b: Floats | np.float64, c: Floats | np.float64, n: int, tolerance: float
) -> Floats | np.float64:
    """Maximum likelihood estimate of ``p01`` where ``p10 = p01 + tolerance``."""
    linear = -b - c + (2 * n - b + c) * tolerance
    constant = -c * tolerance * (1 - tolerance)
    root = np.sqrt(np.maximum(linear * linear - 8 * n * constant, 0.0))
    # For a positive linear term the plain formula cancels; use the product of the roots.
    stable = np.where(linear + root != 0, linear + root, 1.0)
    return np.where(linear > 0, -2 * constant / stable, (root - linear) / (4 * n))


def _nuisance_grid(n: int, tolerance: float) -> Floats:
    """Values of ``p01``, even on the arcsine scale, up to the largest that H0 allows."""
    largest = min(1.0, (1 - tolerance) / 2)
    end = math.asin(math.sqrt(largest))
    count = max(_LEAST_GRID, math.ceil(end * 2 * math.sqrt(n) / _GRID_STEP) + 1)
    return np.asarray(np.sin(np.linspace(0.0, end, count)) ** 2, dtype=np.float64)


def _grid_slice(grid: Floats, low: float, high: float) -> tuple[int, int]:
    """Indices of the grid points that cover ``[low, high]``, one further out on each side."""
    first = max(0, int(np.searchsorted(grid, low, side="right")) - 1)
    last = min(len(grid), int(np.searchsorted(grid, high, side="left")) + 1)
    return min(first, len(grid) - 1), max(last, first + 1)


def _score_upper(b: int, c: int, n: int, alpha: float) -> float:
    critical = normal_quantile(alpha)
    low, high = (b - c) / n, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if float(tango_z(np.float64(b), np.float64(c), n, middle)) <= critical:
            high = middle
        else:
            low = middle
    return high


def _check_tolerance(tolerance: float) -> None:
    if not -1 < tolerance < 1:
        raise ValueError(f"tolerance is {tolerance}; expected a share between -1 and 1")
