"""Latency as records: percentiles, speed-ups and the curve over batch sizes.

How the timings are taken is in :mod:`strop.measure.pairs` (two sessions, for claims) and
:mod:`strop.measure.arena` (many sessions, for ordering).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from strop.errors import StropError
from strop.measure.arena import Arena, ScreenTiming, screen
from strop.measure.conditions import PLAIN, Conditions
from strop.measure.pairs import PairTiming, TimingFailed, pair
from strop.measure.subject import Inputs, Subject
from strop.proof.speed import quantile_interval, ratio_interval
from strop.records import BatchLatency, Interval, Latency, SessionSpec, Speedup
from strop.workers import ChildFailed

__all__ = [
    "Arena",
    "PairTiming",
    "ScreenTiming",
    "TimingFailed",
    "curve",
    "pair",
    "screen",
    "speedup",
    "summarise",
]

_CURVE_CALLS = 20


def summarise(
    launches: Sequence[np.ndarray],
    *,
    batch: int,
    threads: int,
    streams: int = 1,
    rate: float | None = None,
    confidence: float = 0.95,
) -> Latency:
    """Percentiles of the time of a call, over all launches.

    An interval is the wider of two, end by end: the order-statistic interval over the pooled
    calls (:func:`strop.proof.quantile_interval`), which takes calls for independent, and Student's
    interval over the launches' own percentiles on the log scale, which does not. An end that so
    few calls cannot bound is infinite: p99 needs some 370 calls for an upper end at 95%.

    Parameters
    ----------
    launches
        float64[calls] seconds, one array a launch (`PairTiming.b_seconds`).
    batch
        Examples a call.
    threads
        Intra-op threads that a call used.
    streams
        Calls that ran at once.
    rate
        Examples a second, where they were counted (`PairTiming.rates`); None for the batch over
        the median call.

    Raises
    ------
    StropError
        When there are no calls.

    Examples
    --------
    >>> latency = summarise([np.full(400, 0.002), np.full(400, 0.002)], batch=8, threads=1)
    >>> latency.p50.estimate, round(latency.p99.high, 6), latency.throughput, latency.calls
    (0.002, 0.002, 4000.0, 800)
    """
    launches = [calls for calls in launches if len(calls)]
    if not launches:
        raise StropError("there is no timed call to summarise", hint="allow more time for timing")
    calls = np.concatenate(launches)
    p50, p90, p99 = (_percentile(launches, q, confidence) for q in (0.5, 0.9, 0.99))
    return Latency(
        batch=batch,
        threads=threads,
        p50=p50,
        p90=p90,
        p99=p99,
        streams=streams,
        throughput=batch / p50.estimate if rate is None else rate,
        launches=len(launches),
        calls=len(calls),
    )


def speedup(
    timing: PairTiming,
    against: str,
    *,
    confidence: float = 0.95,
    method: Literal["t", "hodges-lehmann"] = "t",
) -> Speedup:
    """How many times faster `b` was than `a`, with its interval across launches.

    One launch gives an estimate and an interval without ends.

    Parameters
    ----------
    against
        What `a` was: ``original``, ``equivalent`` or a recipe id.
    method
        As :func:`strop.proof.ratio_interval` takes it; to be chosen before timing.

    Raises
    ------
    StropError
        When no launch was timed.
    """
    if timing.launches == 0:
        raise StropError(
            "no launch was timed before the deadline", hint="allow more time for timing"
        )
    if timing.launches == 1:
        low, high = 0.0, math.inf
        estimate = math.exp(timing.log_ratios[0])
    else:
        estimate, low, high = ratio_interval(timing.log_ratios, confidence, method)
    return Speedup(
        against=against,
        batch=timing.batch,
        ratio=Interval(estimate=estimate, low=low, high=high, confidence=confidence),
        launches=timing.launches,
    )


def curve(
    spec: SessionSpec,
    inputs_by_batch: Mapping[int, Inputs],
    *,
    seconds: float = 0.5,
    warmup_seconds: float = 1.0,
    payload: bytes | None = None,
    conditions: Conditions = PLAIN,
) -> tuple[BatchLatency, ...]:
    """Latency at several batch sizes, in one process: what a server's batcher starts from.

    The curve ends before the first batch size that the session refuses (a fixed batch dimension,
    for one) and at the deadline.

    Parameters
    ----------
    inputs_by_batch
        One batch of arrays by input name, by batch size, in the order to be timed.
    seconds
        A point's block lasts so long, and 20 calls at least.
    warmup_seconds, payload, conditions
        As :func:`strop.measure.pair` takes them.

    Raises
    ------
    ChildError
        When the session cannot be loaded, refuses the first batch, dies or hangs.
    """
    points: list[BatchLatency] = []
    if not inputs_by_batch:
        return ()
    with Subject(
        "timing",
        spec,
        next(iter(inputs_by_batch.values())),
        payload=payload,
        # The deadline ends the curve between two points; it does not cut one off.
        conditions=replace(conditions, deadline=None),
    ) as subject:
        subject.load()
        for batch, inputs in inputs_by_batch.items():
            if points and conditions.deadline and time.monotonic() >= conditions.deadline:
                break
            try:
                subject.feed(inputs)
                subject.warm(warmup_seconds)
                times = subject.block(seconds, calls=_CURVE_CALLS)
            except ChildFailed:
                if not points:
                    raise
                break
            p50, p99 = np.quantile(times, (0.5, 0.99), method="inverted_cdf")
            points.append(BatchLatency(batch=batch, p50_seconds=float(p50), p99_seconds=float(p99)))
    return tuple(points)


def _percentile(launches: Sequence[np.ndarray], q: float, confidence: float) -> Interval:
    estimate, low, high = quantile_interval(np.concatenate(launches), q, confidence)
    if len(launches) > 1:
        own = np.log([np.quantile(calls, q, method="inverted_cdf") for calls in launches])
        across = ratio_interval(own, confidence)
        low, high = min(low, across.low), max(high, across.high)
    return Interval(
        # Seconds are positive: what the calls cannot bound from below starts at 0.
        estimate=estimate,
        low=min(max(low, 0.0), estimate),
        high=max(high, estimate),
        confidence=confidence,
    )
