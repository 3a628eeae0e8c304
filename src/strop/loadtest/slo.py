"""A service-level objective on latency, and the verdict on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from strop.loadtest.earlystop import passes, required
from strop.loadtest.record import SloVerdict

REFUSALS = (429, 503)
"""The statuses by which a server says that it has too much to do."""


@dataclass(frozen=True)
class Slo:
    """At least `percentile` of the queries are answered within `seconds`.

    Attributes
    ----------
    allow_refusals
        Whether refused queries (503, 429) are left out; otherwise each counts as one over.
    """

    seconds: float
    percentile: float = 0.99
    confidence: float = 0.99
    allow_refusals: bool = False


def judge(slo: Slo, latency: np.ndarray, status: np.ndarray) -> SloVerdict:
    """Whether queries with these latencies (seconds) and statuses show that the objective is held.

    Examples
    --------
    >>> found = judge(Slo(0.02), np.full(500, 0.01), np.full(500, 200))
    >>> found.verdict, found.over, found.required
    ('held', 0, 459)
    """
    if slo.allow_refusals:
        counted = ~np.isin(status, REFUSALS)
        latency, status = latency[counted], status[counted]
    over, queries = int(np.sum((latency > slo.seconds) | (status != 200))), len(latency)
    needed = required(over, slo.percentile, slo.confidence)
    verdict: Literal["held", "missed", "undecided"] = "undecided"
    if passes(queries, over, slo.percentile, slo.confidence):
        verdict = "held"
    elif over > (1 - slo.percentile) * queries:
        verdict = "missed"
    return SloVerdict(
        slo_seconds=slo.seconds,
        percentile=slo.percentile,
        confidence=slo.confidence,
        over=over,
        queries=queries,
        required=needed,
        verdict=verdict,
        refusals_allowed=slo.allow_refusals,
    )
