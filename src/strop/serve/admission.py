"""Whether a request can still be answered in time, asked before any work is spent on it."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque

from strop.serve.curve import LatencyCurve

_WINDOW = 200
"""Batches whose errors are kept: the second largest of 200 is exceeded by 2 in 201 of those that
come, one in a hundred. (That of 100, their 99th percentile, would be by 2 in 101.)"""
_LEAST, _MOST = 0.05, 0.4
"""Shares of the objective: what the margin starts with and never falls below, and what all that is
kept free never exceeds. Batches are as large as two of them fit beside that
(`LatencyCurve.cap_for`): however wrong predictions turn out, one fills while another runs."""
_ENDLESS = 2**31
_ROUND = 0.005
"""Seconds in which the event loop has handled, as a rule, what one look at the sockets brought."""


class Admission:
    """Predicts completion from the queue, the curve and what predictions were worth so far.

    The prediction is the rounds of batches that lie ahead and the last batch, all at their
    medians, plus a margin. Where a request has to wait, its batch is taken to be full when it
    starts, because requests that arrive meanwhile join it. The margin is what one in a hundred
    batches will exceed, by the errors that the newest 200 showed without it: all that is not known
    beforehand, batches that take longer than usual, the event loop's own work, and neighbours.

    The 99th percentile of each size plays no part: it would count the same twice; and once it left
    no room for a batch of that size, none would run that could refute it.

    A request's time begins when it is read, but its client's when it reaches the socket, where it
    waits for the event loop to come round. That wait cannot be seen, only sampled: a batch that
    ends on a thread has to wait for the loop in the same way, and its end is known. So what one in
    a hundred of such waits exceeds is kept free as well. The end of a batch is a kind moment,
    though, as the thread that computed may leave the core to the loop. Where the loop is known to
    have stayed away (`unread`), the objective of all that it finds then counts from when it left.

    Examples
    --------
    >>> from strop.records.manifest import BatchLatency
    >>> curve = LatencyCurve(1, [BatchLatency(batch=1, p50_seconds=0.01, p99_seconds=0.012)])
    >>> admission = Admission(curve, workers=1)
    >>> round(admission.completion(now=0.0, free_at=0.005, rows_ahead=2, rows=1), 3)
    0.035

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
        "_unread",
        "_unread_until",
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
        self._errors = _Newest()
        self._lags = _Newest()
        self._unread = self._unread_until = -math.inf

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
        cap = curve.cap_for(self.slo - self.reserve)
        size = max(curve.best_size(total, self.workers, cap), rows)
        if free_at <= now and rows_ahead == 0:
            return now + curve.p50(size)
        full = max(curve.best_size(_ENDLESS, self.workers, cap), rows)
        rounds = -(-total // (size * self.workers))
        start = free_at if free_at > now else now
        return start + (rounds - 1) * curve.p50(size) + curve.p50(full)

    def drain_seconds(self, rows: int) -> float:
        """How long `rows` take to be worked off."""
        if rows <= 0:
            return 0.0
        cap = self.curve.cap_for(self.slo - self.reserve)
        size = self.curve.best_size(rows, self.workers, cap)
        return -(-rows // (size * self.workers)) * self.curve.p50(size)

    def learn(self, predicted: float, actual: float) -> None:
        """An answer that `completion` said would come at one time came at another."""
        worst = self._errors.add(actual - predicted)
        self.margin = min(max(worst, self._least), _MOST * self.slo)
        self.reserve = min(self.margin + self.lag, _MOST * self.slo)

    def saw(self, lag: float) -> None:
        """What had happened outside was seen by the event loop `lag` seconds later."""
        self.lag = self._lags.add(lag)
        self.reserve = min(self.margin + self.lag, _MOST * self.slo)

    def unread(self, since: float, until: float) -> None:
        """Nobody looked at the sockets from `since` to `until`."""
        self._unread, self._unread_until = since, until + _ROUND

    def reached(self, now: float) -> float:
        """When a request that is read `now` may have reached its socket, at the earliest."""
        return self._unread if now < self._unread_until else now


class _Newest:
    """The newest values, in order of time and of size."""

    __slots__ = ("_by_size", "_by_time")

    def __init__(self) -> None:
        self._by_time: deque[float] = deque()
        self._by_size: list[float] = []

    def add(self, value: float) -> float:
        """Note a value; the second largest of all once there are many, the largest before."""
        by_time, by_size = self._by_time, self._by_size
        if len(by_time) == _WINDOW:
            del by_size[bisect_left(by_size, by_time.popleft())]
        by_time.append(value)
        insort(by_size, value)
        return by_size[-1 - (len(by_size) + _WINDOW // 2) // _WINDOW]
