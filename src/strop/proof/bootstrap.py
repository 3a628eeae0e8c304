"""Paired BCa bootstrap for set-level metrics (F1, mAP, rank correlation, perplexity).

Asymptotic: its error rate is held only approximately, and wherever a bound of it is shown it is
marked so. Efron, "Better bootstrap confidence intervals", JASA 82, 1987, 171-185; jackknife
acceleration as in Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 14.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from strop.proof.binomial import check_alpha
from strop.proof.distributions import normal_cdf, normal_quantile

MIN_RESAMPLES = 2000
MIN_CHANGED = 20

_JACKKNIFE_BLOCKS = 200
_FEW_STEPS = 5

Index = NDArray[np.int64]


class BootstrapRefused(ValueError):
    """Too little changed, too few examples, or too little time for a bound to mean anything."""


@dataclass(frozen=True)
class Resamples:
    """All that a bound rests on: with it the bound can be computed again without the data.

    ``estimate`` is the statistic over all examples; ``draws`` float64[resamples] over samples
    with repeats, in the order in which they were drawn; ``left_out`` float64[blocks] over all
    examples but one block, for the jackknife.
    """

    estimate: float
    draws: NDArray[np.float64]
    left_out: NDArray[np.float64]

    def upper(self, alpha: float) -> float:
        """The BCa upper bound at confidence ``1 - alpha``; :class:`BootstrapRefused` if none."""
        check_alpha(alpha)
        draws, resamples = np.sort(self.draws), len(self.draws)
        # Ties with the estimate count half: a metric of discrete outputs repeats its values.
        equal = np.sum(draws == self.estimate)
        below = (np.sum(draws < self.estimate) + 0.5 * equal) / resamples
        if not 0 < below < 1:
            raise BootstrapRefused(
                "all resamples lie on one side of the estimate, so that its bias cannot be"
                " corrected; prove a per-example score instead"
            )
        bias = normal_quantile(float(below))
        z = bias + normal_quantile(1 - alpha)
        slack = 1 - _acceleration(self.left_out) * z
        if slack <= 0:
            return float(draws[-1])
        level = normal_cdf(bias + z / slack)
        rank = min(math.ceil(level * (resamples + 1)), resamples)
        return float(draws[rank - 1])


def bca_upper(
    statistic: Callable[[Index], float],
    data_len: int,
    alpha: float,
    resamples: int = MIN_RESAMPLES,
    seed: int = 0,
    *,
    changed: int,
    tolerance: float,
    groups: ArrayLike | None = None,
    seconds: float | None = None,
) -> float:
    """Asymptotic upper bound, at confidence ``1 - alpha``, on the drop of a set-level metric.

    Parameters: as :func:`resample` takes them.

    Raises :class:`BootstrapRefused` as :func:`resample` does. Assumes a smooth statistic of
    independent units.

    >>> d = np.random.default_rng(0).normal(0.0, 0.1, 1000)
    >>> upper = bca_upper(lambda i: d[i].mean(), 1000, 0.05, changed=1000, tolerance=0.01)
    >>> bool(d.mean() < upper < d.mean() + 0.01)
    True
    """
    return resample(
        statistic,
        data_len,
        alpha,
        resamples,
        seed,
        changed=changed,
        tolerance=tolerance,
        groups=groups,
        seconds=seconds,
    ).upper(alpha)


def resample(
    statistic: Callable[[Index], float],
    data_len: int,
    alpha: float,
    resamples: int = MIN_RESAMPLES,
    seed: int = 0,
    *,
    changed: int,
    tolerance: float,
    groups: ArrayLike | None = None,
    seconds: float | None = None,
) -> Resamples:
    """Evaluate a paired statistic on bootstrap and jackknife samples.

    Parameters: ``statistic(index)`` the metric of the reference less that of the candidate, both
    over the examples ``index`` int64[m], with repeats (paired: one index for both);
    ``data_len`` examples in all; ``changed`` examples whose output changed; ``tolerance`` the
    drop to be ruled out; ``groups`` [data_len] resamples whole groups; ``seconds`` the wall time
    that it may take (fewer resamples than asked for are never made do with).

    Raises :class:`BootstrapRefused` where fewer than 20 outputs changed or there are fewer than
    ``ln(1/alpha)/tolerance`` independent units: the resamples then hardly vary, and the bound
    proves falsely in 13-73% of runs. Also as soon as its pace shows that ``seconds`` are too few.
    """
    check_alpha(alpha)
    if tolerance <= 0:
        raise ValueError(f"tolerance is {tolerance}; expected a positive drop in metric units")
    if resamples < MIN_RESAMPLES:
        raise ValueError(f"resamples is {resamples}; expected at least {MIN_RESAMPLES}")
    units = _units(data_len, groups)
    _refuse_thin_data(len(units), changed, tolerance, alpha)

    rng = np.random.default_rng(seed)
    pace = _Pace(seconds, 1 + resamples + min(_JACKKNIFE_BLOCKS, len(units)))

    def evaluate(index: Index) -> float:
        pace.step()
        return _evaluate(statistic, index)

    estimate = evaluate(np.arange(data_len))
    draws = np.empty(resamples)
    for i in range(resamples):
        chosen = rng.integers(len(units), size=len(units))
        index = chosen if groups is None else np.concatenate([units[u] for u in chosen])
        draws[i] = evaluate(index)
    blocks = np.array_split(rng.permutation(len(units)), min(_JACKKNIFE_BLOCKS, len(units)))
    left_out = np.empty(len(blocks))
    for i, block in enumerate(blocks):
        keep = np.ones(data_len, dtype=np.bool_)
        for unit in block:
            keep[units[unit]] = False
        left_out[i] = evaluate(np.flatnonzero(keep))
    return Resamples(estimate, draws, left_out)


def _acceleration(left_out: NDArray[np.float64]) -> float:
    """Skewness of the statistic's influence over six, from leaving out random blocks."""
    centred = left_out.mean() - left_out
    scale = float(np.sum(centred**2))
    if scale == 0:
        return 0.0
    # Blocks of m units have 1/sqrt(m) of a unit's skewness, in 1/m as many terms: the ratio of
    # sums estimates skewness / (6 sqrt(units)) either way.
    return float(np.sum(centred**3) / (6 * scale**1.5))


class _Pace:
    """Refuses work that cannot be done in time, as soon as a few steps have shown its pace."""

    def __init__(self, seconds: float | None, steps: int) -> None:
        self._seconds = math.inf if seconds is None else seconds
        self._steps = steps
        self._done = 0
        self._start = time.monotonic()

    def step(self) -> None:
        spent = time.monotonic() - self._start
        needed = spent * self._steps / max(self._done, 1)
        # The first steps may find cold caches: only a clear excess ends it before its time is up.
        hopeless = self._done >= _FEW_STEPS and needed > 1.5 * self._seconds
        if hopeless or spent > self._seconds:
            raise BootstrapRefused(
                f"{self._steps:,} evaluations of the metric take about {needed:.3g} s and the"
                f" budget leaves {self._seconds:.3g} s; allow more time, or prove a per-example"
                " score instead"
            )
        self._done += 1


def _units(data_len: int, groups: ArrayLike | None) -> list[Index]:
    if data_len < 1:
        raise ValueError(f"data_len is {data_len}; expected at least one example")
    rows = np.arange(data_len)
    if groups is None:
        return list(rows[:, None])
    names = np.asarray(groups)
    if names.shape != (data_len,):
        raise ValueError(f"groups has shape {names.shape}; expected ({data_len},)")
    _, index = np.unique(names, return_inverse=True)
    order = np.argsort(index, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(index[order])) + 1)


def _refuse_thin_data(units: int, changed: int, tolerance: float, alpha: float) -> None:
    if changed < MIN_CHANGED:
        raise BootstrapRefused(
            f"only {changed} outputs changed, and a bootstrap bound needs at least {MIN_CHANGED};"
            " prove a per-example score instead, or use more data"
        )
    needed = math.ceil(math.log(1 / alpha) / tolerance)
    if units < needed:
        raise BootstrapRefused(
            f"{units} independent examples cannot rule out a drop of {tolerance:g} at"
            f" {1 - alpha:.0%} confidence; at least {needed} are needed"
        )


def _evaluate(statistic: Callable[[Index], float], index: Index) -> float:
    value = float(statistic(index))
    if not math.isfinite(value):
        raise BootstrapRefused(
            f"the metric is {value} on a resample of {len(index)} examples;"
            " use more data or a metric defined on every subset"
        )
    return value
