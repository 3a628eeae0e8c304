"""When to dispatch, and how many rows: pure functions of the queue, the curve and the time.

The server's batcher and the simulation (`strop.serve.simulate`) call the same objects.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

from strop.serve.curve import LatencyCurve
from strop.serve.settings import ModelSettings


class QueueView(NamedTuple):
    """What a policy may know of the queue.

    Attributes
    ----------
    rows
        Rows that wait and may be computed together; at least 1.
    oldest
        When the first of them arrived, in seconds.
    deadline, last
        The earliest and the latest deadline among them in seconds, infinite where there is none.
    idle
        Workers with nothing to do; at least 1.
    """

    rows: int
    oldest: float
    deadline: float
    last: float
    idle: int


class Decision(NamedTuple):
    """Dispatch up to `rows` now; or, when that is 0, ask again at `until` or at an arrival."""

    rows: int
    until: float = math.inf


class Policy(ABC):
    """Decides whenever a request arrives or a worker becomes idle, while both are there."""

    @abstractmethod
    def choose(self, queue: QueueView, curve: LatencyCurve, now: float) -> Decision:
        """How many rows to dispatch to one idle worker, never more than ``curve.limit``."""


class DeadlineAware(Policy):
    """Never waits while a worker is idle; the latency curve gives the size.

    The size is the one that empties the queue soonest (`LatencyCurve.best_size`), no larger than
    the service-level objective allows (`LatencyCurve.cap_for`). Where that would miss the earliest
    deadline, it is cut to the largest size that meets it, provided that those who then wait longer
    can afford to: otherwise saving one request would make a growing queue of others late. Where
    even a single row would miss the deadline, it is lost, and must not cost the others their
    throughput.

    Waiting for a batch to fill, which fixed policies do, buys throughput only while there is a
    queue; and while there is one, the batch fills during the batch before. See Crankshaw et al.,
    Clipper (NSDI 2017) on adaptive sizes, and Gujarati et al., Clockwork (OSDI 2020) on planning
    by predictable latencies.

    Examples
    --------
    >>> from strop.records.manifest import BatchLatency
    >>> curve = LatencyCurve(32, [
    ...     BatchLatency(batch=1, p50_seconds=0.001, p99_seconds=0.001),
    ...     BatchLatency(batch=32, p50_seconds=0.008, p99_seconds=0.01)])
    >>> policy = DeadlineAware()
    >>> policy.choose(QueueView(20, 0.0, math.inf, math.inf, 1), curve, now=0.0).rows
    20
    >>> policy.choose(QueueView(20, 0.0, 0.005, 0.1, 1), curve, now=0.0).rows
    18
    """

    def __init__(self, slo: float = math.inf) -> None:
        self.slo = slo

    def choose(self, queue: QueueView, curve: LatencyCurve, now: float) -> Decision:
        rows = curve.best_size(queue.rows, queue.idle, curve.cap_for(self.slo))
        slack = queue.deadline - now
        # Medians: a size whose 99th percentile once looked bad would be cut for ever, unrefuted.
        if slack >= curve.p50(rows):
            return Decision(rows)
        if slack < curve.p50(1):
            return Decision(curve.best_size(queue.rows, queue.idle))
        cut = _largest(curve, rows, slack)
        rest = queue.rows - cut
        size = curve.best_size(rest, queue.idle)
        rounds = -(-rest // (size * queue.idle))
        if now + curve.p50(cut) + rounds * curve.p50(size) <= queue.last:
            return Decision(cut)
        return Decision(rows)


class FixedSizeAndDelay(Policy):
    """Waits for a full batch, but no longer than `delay` seconds: what most servers do.

    Parameters
    ----------
    size
        Rows at which a batch counts as full; None means the curve's limit.
    delay
        Seconds that the oldest request may wait.
    """

    def __init__(self, size: int | None = None, delay: float = 0.002) -> None:
        self.size = size
        self.delay = delay

    def choose(self, queue: QueueView, curve: LatencyCurve, now: float) -> Decision:
        size = min(self.size or curve.limit, curve.limit)
        if queue.rows >= size:
            return Decision(size)
        until = queue.oldest + self.delay
        return Decision(queue.rows) if now >= until else Decision(0, until)


def policy_for(settings: ModelSettings) -> Policy:
    """The policy that the settings name."""
    if settings.policy == "fixed":
        return FixedSizeAndDelay(settings.max_batch, settings.delay)
    return DeadlineAware(math.inf if settings.slo is None else settings.slo)


def _largest(curve: LatencyCurve, most: int, slack: float) -> int:
    """The largest size below `most` whose median is within `slack`; 1 is known to be.

    Bisection: the curve rises but for noise, and a size that fits is all that is promised.
    """
    low, high = 1, most
    while high - low > 1:
        middle = (low + high) // 2
        if curve.p50(middle) <= slack:
            low = middle
        else:
            high = middle
    return low
