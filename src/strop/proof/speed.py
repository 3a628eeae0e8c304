"""Intervals for speed-ups and quantiles. The unit is the launch of a process, not the call.

Timings within one launch share its memory layout, thread placement and clock, so that an
interval from one launch covers far too little (Kalibera and Jones, "Rigorous Benchmarking in
Reasonable Time", ISMM 2013; Georges, Buytaert and Eeckhout, OOPSLA 2007).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from strop.proof.binomial import check_alpha
from strop.proof.distributions import binomial_pmf, student_t_quantile


class Interval(NamedTuple):
    """An estimate with the ends of its two-sided confidence interval."""

    estimate: float
    low: float
    high: float


def launch_log_ratio(quads: ArrayLike) -> float:
    """One launch's log speed-up of B over A: the median over its ABBA quads.

    ``quads`` float[quads, 4]: times of A, B, B, A, in that order, any unit. A quad's log ratio
    is ``(ln a1 + ln a2 - ln b1 - ln b2) / 2``: a drift that is linear over the quad cancels, and
    the median over quads shrugs off interruptions. Positive where B is faster.

    >>> round(float(np.exp(launch_log_ratio([[2.0, 1.0, 1.0, 2.0]]))), 6)
    2.0
    """
    times = np.asarray(quads, dtype=np.float64)
    if times.ndim != 2 or times.shape[1] != 4 or not len(times):
        raise ValueError(f"quads has shape {times.shape}; expected [quads, 4], times A, B, B, A")
    if not (np.isfinite(times).all() and (times > 0).all()):
        raise ValueError("quads holds times that are not positive; check the clock's resolution")
    log = np.log(times)
    return float(np.median((log[:, 0] + log[:, 3] - log[:, 1] - log[:, 2]) / 2))


def ratio_interval(
    log_ratios: ArrayLike,
    confidence: float = 0.95,
    method: Literal["t", "hodges-lehmann"] = "t",
) -> Interval:
    """Speed-up with its interval across launches, as ratios.

    ``log_ratios`` float[launches], one a launch (:func:`launch_log_ratio`), independent.
    ``t``: Student's interval of the mean log ratio, for launches near normal. ``hodges-lehmann``:
    median of pairwise means with the exact signed-rank interval (Hodges and Lehmann, Annals of
    Mathematical Statistics 34, 1963, 598-611), for launches symmetric about their median; few
    launches cannot reach a high confidence (at least 6 for 95%).

    >>> [round(x, 3) for x in ratio_interval(np.log([1.9, 2.0, 2.1, 2.0]))]
    [1.999, 1.873, 2.133]
    """
    check_alpha(1 - confidence, name="1 - confidence")
    logs = np.asarray(log_ratios, dtype=np.float64)
    if logs.ndim != 1 or len(logs) < 2 or not np.isfinite(logs).all():
        raise ValueError(
            f"log_ratios has shape {logs.shape}; expected at least two launches, all finite"
        )
    if method == "t":
        half = student_t_quantile(len(logs) - 1, (1 + confidence) / 2)
        half *= float(logs.std(ddof=1)) / math.sqrt(len(logs))
        centre = float(logs.mean())
        return Interval(math.exp(centre), math.exp(centre - half), math.exp(centre + half))
    if method != "hodges-lehmann":
        raise ValueError(f"method is {method!r}; expected 't' or 'hodges-lehmann'")
    i, j = np.triu_indices(len(logs))
    walsh = np.sort((logs[i] + logs[j]) / 2)
    cut = _signed_rank_cut(len(logs), (1 - confidence) / 2)
    if cut == 0:
        raise ValueError(
            f"{len(logs)} launches cannot give a {confidence:.0%} signed-rank interval;"
            " time more launches, or use method 't'"
        )
    low, high = walsh[cut - 1], walsh[len(walsh) - cut]
    return Interval(math.exp(float(np.median(walsh))), math.exp(low), math.exp(high))


def median_interval(samples: ArrayLike, confidence: float = 0.95) -> Interval:
    """The median with its order-statistic interval (:func:`quantile_interval` at 0.5)."""
    return quantile_interval(samples, 0.5, confidence)


def quantile_interval(samples: ArrayLike, q: float, confidence: float = 0.95) -> Interval:
    """A quantile (p50, p90, p99 …) with its distribution-free order-statistic interval.

    ``samples`` float[n], independent and identically distributed: calls to one warm process are
    so only roughly, and the interval speaks for that launch alone. Each end has at most half
    the error (David and Nagaraja, "Order Statistics", 2003, section 7.1); an end that n samples
    cannot bound is infinite. The estimate is the smallest sample with at least q at or below.

    >>> quantile_interval(np.arange(1, 101), 0.5)
    Interval(estimate=50.0, low=40.0, high=61.0)
    >>> quantile_interval(np.arange(100), 0.99).high
    inf
    """
    check_alpha(1 - confidence, name="1 - confidence")
    if not 0 < q < 1:
        raise ValueError(f"q is {q}; expected a quantile between 0 and 1, such as 0.99")
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    if ordered.ndim != 1 or not len(ordered) or np.isnan(ordered).any():
        raise ValueError(f"samples has shape {ordered.shape}; expected times, at least one")
    n = len(ordered)
    tail = (1 - confidence) / 2
    # below[k] = P(at most k samples lie under the quantile)
    below = np.minimum(np.cumsum(binomial_pmf(np.arange(n), n, q)), 1.0)
    low_rank = int(np.searchsorted(below, tail, side="right"))  # 1-based; 0 where none
    high_rank = int(np.searchsorted(below, 1 - tail, side="left")) + 1
    estimate = float(ordered[max(math.ceil(q * n) - 1, 0)])
    low = float(ordered[low_rank - 1]) if low_rank >= 1 else -math.inf
    high = float(ordered[high_rank - 1]) if high_rank <= n else math.inf
    return Interval(estimate, low, high)


def clean_queries_needed(q: float = 0.99, confidence: float = 0.99) -> int:
    """Queries that must all meet a limit for the verdict that quantile q meets it.

    For independent queries; MLPerf's LoadGen asks the same of a run without overruns.

    >>> clean_queries_needed()
    459
    """
    check_alpha(q, name="q")
    check_alpha(1 - confidence, name="1 - confidence")
    return math.ceil(math.log(1 - confidence) / math.log(q))


def _signed_rank_cut(n: int, tail: float) -> int:
    """Largest k with ``P(signed-rank sum <= k - 1) <= tail``, by exact enumeration."""
    counts = np.zeros(n * (n + 1) // 2 + 1)
    counts[0] = 1.0
    for rank in range(1, n + 1):
        shifted = np.zeros_like(counts)
        shifted[rank:] = counts[:-rank]
        counts = (counts + shifted) / 2
    return int(np.searchsorted(np.cumsum(counts), tail * (1 + 1e-12), side="right"))
