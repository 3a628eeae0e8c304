"""Latency by batch size: what the batcher decides by, refined by every batch that runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice, pairwise

from strop.records.manifest import BatchLatency

_WINDOW = 200
"""Observations kept a size: the third largest of 200 is their 99th percentile."""
_RECENT = 31
"""Newest of them that give the median, which so follows a machine that slows down."""
_STALE = 1000
"""Batches of other sizes after which what is known of one is forgotten: it may have been measured
beside a neighbour, and a size that looks bad is not run, which alone could show that it is not."""
_REFRESH = 0.1
"""Seconds of batches after which the curve is drawn anew, which takes some 75 µs."""
_WORTH = 0.0075
"""Seconds of batches that make it worth that time after 16 of one size, too, once it is known."""
_TRUST = 20
"""Observations of a size after which the recorded curve no longer counts for it."""
_HANDLING = 50e-6
"""Seconds that a batch costs beside its computation (two thread switches, its objects): without
them a model whose time is in proportion to its rows would not be batched at all."""
_ROUNDS = 4
"""A short queue is planned as so many rounds of batches at most."""


class LatencyCurve:
    """Median and 99th percentile of a batch's seconds by its rows, from 1 to `limit`.

    Starts from the points that a bundle records (measured by the optimiser, perhaps on another
    machine) and follows what is observed: each grid size keeps a window of the newest observations,
    until it has not run for long. A size of which nothing is known is taken to be as much slower
    than recorded as the others are or, where nothing was recorded, to take as long for a row as the
    next smaller one. Sizes in between are interpolated linearly. Memory is bounded by the grid
    (powers of two up to the limit, and the limit itself) times the window.

    Examples
    --------
    >>> curve = LatencyCurve(8, [BatchLatency(batch=1, p50_seconds=0.001, p99_seconds=0.002),
    ...                          BatchLatency(batch=8, p50_seconds=0.004, p99_seconds=0.006)])
    >>> curve.p50(1), curve.p99(8)
    (0.001, 0.006)
    >>> curve.observe(1, 0.003)
    >>> curve.p50(1)
    0.003
    >>> curve.best_size(rows=8, workers=1)
    8
    """

    def __init__(self, limit: int, points: Iterable[BatchLatency] = ()) -> None:
        self.limit = limit
        self.sizes = tuple(sorted({2**k for k in range(limit.bit_length())} | {limit}))
        recorded = sorted(points, key=lambda point: point.batch)
        self.known = bool(recorded)
        """Whether anything was recorded or observed: an unknown curve is all zeros."""
        self._recorded: list[tuple[float, float]] = [
            _recorded_at(recorded, size) for size in self.sizes
        ]
        self._windows: list[deque[float]] = [deque(maxlen=_WINDOW) for _ in self.sizes]
        self._since = 0.0
        self._seen = [0] * len(self.sizes)
        self._batches = 0
        self._latest = [0] * len(self.sizes)
        self._p50 = [0.0] * (limit + 1)
        self._p99 = [0.0] * (limit + 1)
        self._best: dict[tuple[int, int, int], int] = {}
        self._caps: dict[float, int] = {}
        self._refresh()

    def p50(self, rows: int) -> float:
        """The median seconds of a batch of `rows`, at most `limit`."""
        return self._p50[rows]

    def p99(self, rows: int) -> float:
        """The seconds that 99 of 100 batches of `rows` stay within."""
        return self._p99[rows]

    def points(self) -> list[BatchLatency]:
        """The curve at its grid sizes as it stands."""
        return [
            BatchLatency(batch=size, p50_seconds=self._p50[size], p99_seconds=self._p99[size])
            for size in self.sizes
        ]

    def observe(self, rows: int, seconds: float) -> None:
        """A batch of `rows` took `seconds`. Costs a microsecond, or 0.1% of the batch's time."""
        index = self._nearest(rows)
        size = self.sizes[index]
        if rows != size and self._p50[rows] > 0:
            seconds *= self._p50[size] / self._p50[rows]
        self._windows[index].append(seconds)
        seen = self._seen[index]
        self._seen[index] = seen + 1
        self._since += seconds
        self._batches += 1
        self._latest[index] = self._batches
        often = seen % 16 == 0 and (seen <= _WINDOW or self._since > _WORTH)
        if seen < 4 or often or self._since > _REFRESH:
            self._since = 0.0
            self._refresh()

    def best_size(self, rows: int, workers: int = 1, cap: int | None = None) -> int:
        """How many rows the next of `workers` idle workers should get of a queue of `rows`.

        What fits one round of batches up to `cap` (by default `limit`) is emptied as soon as
        possible: ⌈rows / (size · workers)⌉ · p50(size) is least, and of equal sizes the smaller
        wins, because its requests leave sooner. A longer queue is worked off at the size of the
        best throughput, p50(size) / size: what is left over is joined by what arrives meanwhile.
        """
        most = self.limit if cap is None else cap
        if rows <= 1 or most == 1:
            return 1
        if rows > most * workers:
            rows = 0
        key = (rows, workers, most)
        best = self._best.get(key)
        if best is None:
            best = self._best[key] = self._plan(rows, workers, most)
        return best

    def cap_for(self, seconds: float) -> int:
        """The largest size with which every request can be answered within `seconds`; at least 1.

        A request that arrives just after a batch has begun waits for that one and then for its
        own, so two of them have to fit (Shen et al., Nexus, SOSP 2019, section 4).
        """
        cap = self._caps.get(seconds)
        if cap is None:
            fits = (it for it in range(self.limit, 1, -1) if 2 * self._p50[it] <= seconds)
            cap = self._caps[seconds] = next(fits, 1)
        return cap

    def _plan(self, rows: int, workers: int, most: int) -> int:
        """As `best_size`; 0 rows stand for an endless queue."""
        if not self.known:
            return min(_ceil(rows, workers), most) if rows else most
        cost = [seconds + _HANDLING for seconds in self._p50]
        if not rows:
            sizes = {size for size in (*self.sizes, most) if size <= most}
            return min(sorted(sizes, reverse=True), key=lambda size: cost[size] / size)
        shares = {_ceil(rows, rounds) for rounds in range(workers, _ROUNDS * workers + 1)}
        sizes = {size for size in (*self.sizes, *shares) if size <= min(rows, most)}
        return min(sorted(sizes), key=lambda size: _ceil(_ceil(rows, size), workers) * cost[size])

    def _nearest(self, rows: int) -> int:
        low = min(rows.bit_length() - 1, len(self.sizes) - 1)
        if low + 1 < len(self.sizes) and self.sizes[low + 1] - rows < rows - self.sizes[low]:
            return low + 1
        return low

    def _refresh(self) -> None:
        for index, latest in enumerate(self._latest):
            if self._batches - latest > _STALE:
                self._windows[index].clear()
                self._seen[index] = 0
        p50s, p99s = [], []
        scale = self._scale()
        for index, window in enumerate(self._windows):
            recorded50, recorded99 = self._recorded[index]
            if window:
                ordered = sorted(window)
                p50 = self._recent_median(index)
                p99 = ordered[_ceil(99 * len(ordered), 100) - 1]
                if len(ordered) < _TRUST and recorded50 > 0:
                    p99 = max(p99, p50 * recorded99 / recorded50)
            else:
                p50, p99 = recorded50 * scale, recorded99 * scale
            p50s.append(p50)
            p99s.append(p99)
        self.known = self.known or any(self._seen)
        for values, into in ((p50s, self._p50), (p99s, self._p99)):
            _fill_gaps(values, self.sizes)
            _interpolate(self.sizes, values, into)
        self._best.clear()
        self._caps.clear()

    def _scale(self) -> float:
        """How much slower than recorded the sizes seen so far are: for those not seen yet."""
        ratios = sorted(
            self._recent_median(index) / recorded
            for index, (recorded, _) in enumerate(self._recorded)
            if self._windows[index] and recorded > 0
        )
        return ratios[len(ratios) // 2] if ratios else 1.0

    def _recent_median(self, index: int) -> float:
        recent = sorted(islice(reversed(self._windows[index]), _RECENT))
        return recent[(len(recent) - 1) // 2]


def _ceil(whole: int, part: int) -> int:
    return -(-whole // part)


def _recorded_at(points: list[BatchLatency], size: int) -> tuple[float, float]:
    """The recorded curve at `size`, extended in proportion beyond its last point."""
    if not points:
        return 0.0, 0.0
    if size <= points[0].batch:
        return points[0].p50_seconds, points[0].p99_seconds
    for left, right in pairwise(points):
        if size <= right.batch:
            part = (size - left.batch) / (right.batch - left.batch)
            return (
                left.p50_seconds + part * (right.p50_seconds - left.p50_seconds),
                left.p99_seconds + part * (right.p99_seconds - left.p99_seconds),
            )
    last = points[-1]
    return last.p50_seconds * size / last.batch, last.p99_seconds * size / last.batch


def _fill_gaps(values: list[float], sizes: tuple[int, ...]) -> None:
    """Sizes of which nothing is known get a neighbour's value, in proportion when it is smaller."""
    for index in range(1, len(values)):
        if values[index] == 0.0:
            values[index] = values[index - 1] * sizes[index] / sizes[index - 1]
    for index in range(len(values) - 2, -1, -1):
        if values[index] == 0.0:
            values[index] = values[index + 1]


def _interpolate(sizes: tuple[int, ...], values: list[float], into: list[float]) -> None:
    into[0] = into[1] = values[0]
    for (left, low), (right, high) in pairwise(zip(sizes, values, strict=True)):
        step = (high - low) / (right - left)
        for rows in range(left, right + 1):
            into[rows] = low + step * (rows - left)
