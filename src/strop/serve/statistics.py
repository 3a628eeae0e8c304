"""Counters of one model: Triton's statistics, and histograms that are truly histograms."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_SECONDS = tuple(round(base * 10.0**power, 7) for power in range(-5, 2) for base in (1.0, 2.0, 5.0))
"""Bounds in seconds: 10 µs, 20 µs, 50 µs … 50 s."""
_ROWS = tuple(2.0**power for power in range(13))


class Histogram:
    """Counts of values by upper bound; ``counts[i]`` is of values up to ``bounds[i]``.

    The last count is of values above every bound; counts are not cumulative.

    Examples
    --------
    >>> histogram = Histogram((1.0, 2.0))
    >>> for value in (0.5, 1.0, 1.5, 9.0):
    ...     histogram.observe(value)
    >>> histogram.counts, histogram.count, histogram.sum
    ([2, 1, 1], 4, 12.0)
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def observe_since(self, moments: Sequence[float], now: float) -> None:
        """Count the time from each of these moments, the earliest first, until `now`."""
        bounds, counts, many = self.bounds, self.counts, len(moments)
        slowest = bisect_left(bounds, now - moments[0])
        done = 0
        for index in range(bisect_left(bounds, now - moments[-1]), slowest):
            # The later ones, which were faster: all that took up to this bound.
            faster = many - bisect_left(moments, now - bounds[index])
            counts[index] += faster - done
            done = faster
        counts[slowest] += many - done
        self.sum += many * now - sum(moments)


@dataclass(slots=True)
class Duration:
    """How often, and how long in all."""

    count: int = 0
    ns: int = 0

    def add(self, count: int, seconds: float) -> None:
        """`count` more, `seconds` in all of them together."""
        self.count += count
        self.ns += int(seconds * 1e9)

    def to_dict(self) -> dict[str, int]:
        """As Triton spells it."""
        return {"count": self.count, "ns": self.ns}


@dataclass(slots=True)
class BatchSize:
    """What batches of one size cost: gathering inputs, computing, scattering outputs."""

    gather: Duration = field(default_factory=Duration)
    compute: Duration = field(default_factory=Duration)
    scatter: Duration = field(default_factory=Duration)


@dataclass(slots=True)
class ModelStatistics:
    """What one version of a model has done since it was loaded.

    Durations are Triton's: `queue`, `gather` (``compute_input``), `compute` (``compute_infer``)
    and `scatter` (``compute_output``) add up a request's share of its batch's time as each request
    saw it; `success` is arrival to answer, `fail` the same of what was taken and failed. `refused`
    counts all that got no outputs, by `ServeError.reason`. All of it is written on the event
    loop's thread only.
    """

    inferences: int = 0
    """Rows answered, the cache's not included."""
    executions: int = 0
    """Batches computed."""
    last: float = 0.0
    """`time.time()` of the last answer."""
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    gather: Duration = field(default_factory=Duration)
    compute: Duration = field(default_factory=Duration)
    scatter: Duration = field(default_factory=Duration)
    cache_hit: Duration = field(default_factory=Duration)
    cache_miss: Duration = field(default_factory=Duration)
    cache_shared: int = 0
    """Requests answered by an identical one that was in flight already."""
    cancelled: int = 0
    late: int = 0
    """Accepted requests answered after the service-level objective."""
    refused: dict[str, int] = field(default_factory=dict)
    by_batch: dict[int, BatchSize] = field(default_factory=dict)
    queue_seconds: Histogram = field(default_factory=lambda: Histogram(_SECONDS))
    compute_seconds: Histogram = field(default_factory=lambda: Histogram(_SECONDS))
    total_seconds: Histogram = field(default_factory=lambda: Histogram(_SECONDS))
    batch_rows: Histogram = field(default_factory=lambda: Histogram(_ROWS))

    @property
    def cache_hits(self) -> int:
        """Requests answered from the cache."""
        return self.cache_hit.count

    @property
    def cache_misses(self) -> int:
        """Requests that the cache was asked for in vain."""
        return self.cache_miss.count

    def refuse(self, reason: str) -> None:
        """Count one refusal."""
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def answered(self, arrived: Sequence[float], started: float, now: float) -> None:
        """Count requests of one row each that were computed in one batch and are answered `now`.

        Parameters
        ----------
        arrived
            When they did, in order, which is what makes this cheap.
        """
        many, since = len(arrived), sum(arrived)
        self.inferences += many
        self.queue.add(many, many * started - since)
        self.success.add(many, many * now - since)
        self.queue_seconds.observe_since(arrived, started)
        self.total_seconds.observe_since(arrived, now)

    def batch(self, rows: int, requests: int, gather: float, compute: float) -> BatchSize:
        """Count one batch: its rows, its requests, and the seconds it took."""
        self.executions += 1
        self.last = time.time()
        self.gather.add(requests, gather * requests)
        self.compute.add(requests, compute * requests)
        self.batch_rows.observe(rows)
        self.compute_seconds.observe(compute)
        size = self.by_batch.get(rows)
        if size is None:
            size = self.by_batch[rows] = BatchSize()
        size.gather.add(1, gather)
        size.compute.add(1, compute)
        return size

    def to_dict(self) -> dict[str, Any]:
        """The entry of ``GET …/stats`` without name and version, in Triton's words."""
        return {
            "last_inference": int(self.last * 1000),
            "inference_count": self.inferences,
            "execution_count": self.executions,
            "inference_stats": {
                "success": self.success.to_dict(),
                "fail": self.fail.to_dict(),
                "queue": self.queue.to_dict(),
                "compute_input": self.gather.to_dict(),
                "compute_infer": self.compute.to_dict(),
                "compute_output": self.scatter.to_dict(),
                "cache_hit": self.cache_hit.to_dict(),
                "cache_miss": self.cache_miss.to_dict(),
            },
            "batch_stats": [
                {
                    "batch_size": rows,
                    "compute_input": size.gather.to_dict(),
                    "compute_infer": size.compute.to_dict(),
                    "compute_output": size.scatter.to_dict(),
                }
                for rows, size in sorted(self.by_batch.items())
            ],
        }
