"""Whether a request can still be answered in time, asked before any work is spent on it."""

from __future__ import annotations

import math
from collections import deque

from strop.serve.curve import LatencyCurve

_WINDOW = 100
"""Batches whose errors are kept: the second largest of 100 is their 99th percentile."""
_LEAST = 0.05
"""Share of the objective that the margin starts with, and never falls below."""
_ENDLESS = 2**31


class Admission:
    """Predicts completion from the queue, the curve and what predictions were worth so far.

    The prediction is the rounds of batches that lie ahead at their means, plus the last batch at
    its 99th percentile, plus a margin. Where a request has to wait, its batch is taken to be full
    when it starts, because requests that arrive meanwhile join it. The margin is the
    99th percentile of the errors that the newest 100 batches showed without it: what the curve
    does not see, the event loop's own work and neighbours on the machine. It never exceeds half of
    the objective, so that even after a stall some requests are let in, from which it learns that
    the stall is over.

    A request's time begins when it is read, but its client's when it reaches the socket, where it
    waits for the event loop to come round. That wait cannot be seen, only sampled: a batch that
    ends on a thread has to wait for the loop in the same way, and its end is known. So the 99th
    percentile of how late the newest 100 ends were seen is kept free as well.

    Examples
    --------
    >>> from strop.records.manifest import BatchLatency
    >>> curve = LatencyCurve(1, [BatchLatency(batch=1, p50_seconds=0.01, p99_seconds=0.012)])
    >>> admission = Admission(curve, workers=1)
    >>> round(admission.completion(now=0.0, free_at=0.005, rows_ahead=2, rows=1), 3)
    0.037

    Attributes
    ----------
    margin, lag
        Seconds that answers come later than predicted, and that requests wait to be read.
    reserve
        What of the objective has to be left at the predicted completion, for both.
    """

    __slots__ = (
        "_errors",
        "_lags",
        "_least",
        "curve",
        "lag",
        "margin",
        "reserve",
        "slo",
        "workers",
    )

    def __init__(self, curve: LatencyCurve, workers: int, slo: float = math.inf) -> None:
        self.curve = curve
        self.workers = workers
        self.slo = slo
        self.margin = self._least = 0.0 if slo == math.inf else _LEAST * slo
        self.lag = 0.0
        self.reserve = self.margin
        self._errors: deque[float] = deque(maxlen=_WINDOW)
        self._lags: deque[float] = deque(maxlen=_WINDOW)

    def completion(self, now: float, free_at: float, rows_ahead: int, rows: int) -> float:
        """When a request of `rows` would be answered, without the margin.

        Parameters
        ----------
        free_at
            When the first worker becomes free, which may be in the past.
        rows_ahead
            Rows that wait and go first.
        """
        curve = self.curve
        total = rows_ahead + rows
        cap = curve.cap_for(self.slo)
        size = max(curve.best_size(total, self.workers, cap), rows)
        if free_at <= now and rows_ahead == 0:
            return now + curve.p99(size)
        full = max(curve.best_size(_ENDLESS, self.workers, cap), rows)
        rounds = -(-total // (size * self.workers))
        start = free_at if free_at > now else now
        return start + (rounds - 1) * curve.mean(size) + curve.p99(full)

    def drain_seconds(self, rows: int) -> float:
        """How long `rows` take to be worked off."""
        if rows <= 0:
            return 0.0
        size = self.curve.best_size(rows, self.workers, self.curve.cap_for(self.slo))
        return -(-rows // (size * self.workers)) * self.curve.mean(size)

    def learn(self, predicted: float, actual: float) -> None:
        """An answer that `completion` said would come at one time came at another."""
        self._errors.append(actual - predicted)
        self.margin = min(max(_worst(self._errors), self._least), self.slo / 2)
        self.reserve = min(self.margin + self.lag, self.slo / 2)

    def saw(self, lag: float) -> None:
        """What had happened outside was seen by the event loop `lag` seconds later."""
        self._lags.append(lag)
        self.lag = _worst(self._lags)
        self.reserve = min(self.margin + self.lag, self.slo / 2)


def _worst(values: deque[float]) -> float:
    """All but one of a full window are not above it."""
    return sorted(values)[-1 - len(values) // _WINDOW]
