"""How many queries a claim on a percentile needs: the early-stopping criterion of MLPerf LoadGen.

A query is *over* when its latency exceeds the limit. The percentile p is held, at confidence c,
when so few of n queries are over that a server which truly lets 1 - p of them over would show as
few with probability at most 1 - c: P(Binomial(n, 1 - p) ≤ over) ≤ 1 - c. This is LoadGen's
criterion with tolerance 0 (mlcommons/inference, loadgen/early_stopping.cc).
"""

from __future__ import annotations

import functools
import math

from strop.proof.distributions import binomial_cdf


def passes(queries: int, over: int, percentile: float = 0.99, confidence: float = 0.99) -> bool:
    """Whether `over` of `queries` over the limit show that `percentile` keeps it.

    Examples
    --------
    >>> passes(459, 0), passes(458, 0), passes(662, 1)
    (True, False, True)
    """
    if over >= queries:
        return False
    return _chance(queries, over, percentile) <= 1 - confidence + 1e-12


@functools.lru_cache(maxsize=4096)
def required(over: int, percentile: float = 0.99, confidence: float = 0.99) -> int:
    """The fewest queries with which `over` of them over the limit still pass.

    Examples
    --------
    >>> required(0), required(1), required(0, percentile=0.9), required(1, percentile=0.9)
    (459, 662, 44, 64)
    """
    low, high = over, max(2 * over, math.ceil(1 / (1 - percentile)))
    while not passes(high, over, percentile, confidence):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if passes(middle, over, percentile, confidence):
            high = middle
        else:
            low = middle
    return high


def allowed(queries: int, percentile: float = 0.99, confidence: float = 0.99) -> int:
    """The most of `queries` that may be over the limit; -1 when even none over proves nothing.

    Examples
    --------
    >>> allowed(458), allowed(459), allowed(10_000)
    (-1, 0, 77)
    """
    if not passes(queries, 0, percentile, confidence):
        return -1
    low, high = 0, queries
    while high - low > 1:
        middle = (low + high) // 2
        if passes(queries, middle, percentile, confidence):
            low = middle
        else:
            high = middle
    return low


def estimate_rank(queries: int, percentile: float, confidence: float = 0.99) -> int | None:
    """From the longest (1), the rank of the latency that bounds `percentile` from above.

    LoadGen's estimate for the single-stream and multi-stream scenarios. It asks for at least one
    query over the limit, which is one rank more cautious than the binomial bound itself. None
    when there are too few queries for any estimate.

    Examples
    --------
    >>> estimate_rank(63, 0.9), estimate_rank(64, 0.9), estimate_rank(10_000, 0.99)
    (None, 1, 77)
    """
    rank = allowed(queries, percentile, confidence)
    return rank if rank >= 1 else None


def _chance(queries: int, over: int, percentile: float) -> float:
    return float(binomial_cdf(over, queries, 1 - percentile))
