"""What happened to every query of a run."""

from __future__ import annotations

import math
import time
from array import array
from collections import Counter

import numpy as np

from strop.loadtest.record import Bin, Percentiles, SloVerdict
from strop.loadtest.slo import REFUSALS, Slo, judge

_BINS_A_DECADE = 10


class Tally:
    """Latencies and statuses, in the order of the answers.

    Latency counts from the moment at which the query was *meant* to be sent, so that a stall of
    the server is felt by all the queries that would have come during it (Tene's "coordinated
    omission").
    """

    def __init__(self, slo: Slo | None = None) -> None:
        self.latency = array("d")
        self.status = array("h")
        self.late = array("d")
        self.over = 0
        self.start = 0.0
        self.last = 0.0
        self._limit = slo.seconds if slo else math.inf
        self._forgiven = REFUSALS if slo and slo.allow_refusals else ()

    def add(self, intended: float, status: int) -> None:
        """Count an answer that came just now to the query meant for `intended`."""
        self.last = time.perf_counter()
        latency = self.last - intended
        self.latency.append(latency)
        self.status.append(status)
        if (latency > self._limit or status != 200) and status not in self._forgiven:
            self.over += 1

    def __len__(self) -> int:
        return len(self.latency)

    def latencies(self, *, refused: bool = False, since: int = 0) -> np.ndarray:
        """Seconds of the answered queries, or of those refused, unsorted."""
        latency = np.array(self.latency[since:])
        status = np.array(self.status[since:], np.int16)
        chosen: np.ndarray = latency[np.isin(status, REFUSALS) if refused else status == 200]
        return chosen

    def judge(self, slo: Slo) -> SloVerdict:
        """Whether these queries show that the objective is held."""
        return judge(slo, np.array(self.latency), np.array(self.status, np.int16))

    @property
    def statuses(self) -> dict[int, int]:
        """How often each status came."""
        return dict(sorted(Counter(self.status).items()))


def percentiles(seconds: np.ndarray) -> Percentiles | None:
    """The distribution in a few numbers; None without any.

    A percentile is the smallest latency that so large a part of the queries does not exceed: one
    that was measured, never an average of two.
    """
    if not len(seconds):
        return None
    ordered = np.sort(seconds)
    found = {name: _rank(ordered, part) for name, part in _PARTS.items()}
    return Percentiles(
        mean=float(ordered.mean()), minimum=float(ordered[0]), maximum=float(ordered[-1]), **found
    )


def histogram(seconds: np.ndarray) -> tuple[Bin, ...]:
    """Counts in bins that grow by a constant factor, without empty ones at the ends."""
    if not len(seconds):
        return ()
    exponents = np.floor(np.log10(np.maximum(seconds, 1e-9)) * _BINS_A_DECADE).astype(int)
    counts = Counter(exponents.tolist())
    return tuple(
        Bin(
            low=10 ** (exponent / _BINS_A_DECADE),
            high=10 ** ((exponent + 1) / _BINS_A_DECADE),
            count=counts.get(exponent, 0),
        )
        for exponent in range(min(counts), max(counts) + 1)
    )


_PARTS = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}


def _rank(ordered: np.ndarray, part: float) -> float:
    return float(ordered[max(0, math.ceil(part * len(ordered) - 1e-9) - 1)])
