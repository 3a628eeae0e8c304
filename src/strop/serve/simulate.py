"""Policies in simulated time: the classes that serve, on a queue that is only numbers."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from strop.serve.admission import Admission
from strop.serve.curve import LatencyCurve
from strop.serve.policy import Policy, QueueView

_ARRIVAL, _FREE, _WAKE = 0, 1, 2


@dataclass(frozen=True)
class Outcome:
    """What became of the requests.

    Attributes
    ----------
    latencies
        float64[accepted]: seconds from arrival to answer, in order of completion.
    refused
        Requests turned away, on arrival or when they could not be answered in time any more.
    batches
        int64[batches]: rows of each batch.
    idle_seconds
        Time in which a request waited although a worker was idle.
    seconds
        From the first arrival to the last answer.
    """

    latencies: np.ndarray
    refused: int
    batches: np.ndarray
    idle_seconds: float
    seconds: float

    def quantile(self, q: float) -> float:
        """Latency that a share `q` of the accepted requests stays within."""
        return float(np.quantile(self.latencies, q))

    @property
    def throughput(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds


def poisson(rate: float, seconds: float, seed: int = 0) -> np.ndarray:
    """Arrival times, float64[n], of independent clients at `rate` requests a second."""
    rng = np.random.default_rng(seed)
    count = rng.poisson(rate * seconds)
    return np.sort(rng.uniform(0.0, seconds, count))


def simulate(
    policy: Policy,
    curve: LatencyCurve,
    arrivals: np.ndarray,
    *,
    slo: float = math.inf,
    workers: int = 1,
    admit: bool = False,
    noise: float = 0.05,
    seed: int = 0,
) -> Outcome:
    """Run requests of one row through a policy, event by event.

    Parameters
    ----------
    curve
        What the policy knows; a batch takes its median times a log-normal error.
    arrivals
        float64[n], ascending seconds.
    slo
        Seconds after its arrival at which a request's deadline lies.
    admit
        Whether those that would be late are refused, as the server does.
    noise
        Standard deviation of the logarithm of a batch's time.

    Examples
    --------
    >>> from strop.serve.policy import DeadlineAware
    >>> from strop.records.manifest import BatchLatency
    >>> curve = LatencyCurve(8, [BatchLatency(batch=1, p50_seconds=0.01, p99_seconds=0.01)])
    >>> outcome = simulate(DeadlineAware(), curve, np.array([0.0, 1.0]), noise=0.0)
    >>> outcome.latencies.round(3).tolist(), outcome.idle_seconds
    ([0.01, 0.01], 0.0)
    """
    rng = np.random.default_rng(seed)
    admission = Admission(curve, workers, slo) if admit else None
    waiting: deque[float] = deque()
    running: dict[int, tuple[list[float], float]] = {}
    idle = set(range(workers))
    events: list[tuple[float, int, int]] = [(float(at), _ARRIVAL, 0) for at in arrivals]
    predicted: dict[float, float] = {}
    latencies: list[float] = []
    batches: list[int] = []
    refused, idle_seconds, now, woken = 0, 0.0, 0.0, math.inf
    while events:
        before = now
        now, kind, worker = heappop(events)
        if waiting and idle:
            idle_seconds += now - before
        if kind == _WAKE:
            woken = math.inf
        elif kind == _FREE:
            arrived, _ = running.pop(worker)
            latencies += [now - at for at in arrived]
            idle.add(worker)
            if admission is not None:
                admission.learn(min(predicted[arrived[0]], predicted[arrived[-1]]), now)
        elif admission is None:
            waiting.append(now)
        else:
            free = now if idle else min(until for _, until in running.values())
            completion = admission.completion(now, free, len(waiting), 1)
            if completion + admission.margin > now + slo and (waiting or not idle):
                refused += 1
            else:
                waiting.append(now)
                predicted[now] = completion
        while waiting and idle:
            view = QueueView(
                len(waiting), waiting[0], waiting[0] + slo, waiting[-1] + slo, len(idle)
            )
            rows, until = policy.choose(view, curve, now)
            if rows == 0:
                if until < woken:
                    woken = until
                    heappush(events, (until, _WAKE, 0))
                break
            if admission is not None:
                doomed = now + min(curve.p99(rows), slo / 2)
                while waiting and waiting[0] + slo < doomed:
                    waiting.popleft()
                    refused += 1
                if not waiting:
                    break
            batch = [waiting.popleft() for _ in range(min(rows, len(waiting)))]
            batches.append(len(batch))
            seconds = curve.p50(len(batch)) * math.exp(noise * rng.standard_normal())
            worker = idle.pop()
            running[worker] = (batch, now + curve.p50(len(batch)))
            heappush(events, (now + seconds, _FREE, worker))
    begin = float(arrivals[0]) if len(arrivals) else 0.0
    return Outcome(np.array(latencies), refused, np.array(batches), idle_seconds, now - begin)
