"""What was measured and proven of one trial."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from strop.records._base import Record
from strop.records.cost import Cost
from strop.records.energy import Energy, Saving
from strop.records.interval import Interval

ScoreKind = Literal["binary", "agreement", "bounded", "set"]


class Quality(Record):
    """Scores of a candidate beside the reference's, on one role of the data.

    Attributes
    ----------
    metric, kind
        The metric's name, and which family of tests its scores belong to (PROOF: 0/1 scores,
        agreement with the original, bounded real scores, one number a set).
    role
        ``search`` (chooses; no claim may rest on it) or ``prove``.
    n, groups
        Examples scored, and independent groups among them.
    reference, candidate
        Mean scores; for agreement the reference is 1.
    drop
        ``reference − candidate``, with a two-sided interval for display.
    lost, won
        Examples on which only the reference, only the candidate is right (0/1 scores), or
        scores that fell, rose (real scores).
    changed
        Examples whose decision or output changed by more than the equivalence bound.
    max_relative_error
        The largest relative error of any output against the reference's.
    """

    metric: str
    kind: ScoreKind
    role: Literal["search", "prove"]
    n: int
    groups: int
    reference: float
    candidate: float
    drop: Interval
    lost: int
    won: int
    changed: int
    max_relative_error: float


class Latency(Record):
    """Seconds a call at one batch size, from interleaved fresh-process launches.

    Attributes
    ----------
    p50, p90, p99
        Seconds a call, with intervals across calls pooled over launches.
    streams
        Calls that ran at once while they were timed.
    throughput
        Examples a second: batch size over the median call, or, where the goal is throughput, as
        counted while so many calls ran at once.
    launches, calls
        Fresh processes timed, and timed calls in all.
    """

    batch: int
    threads: int
    streams: int = 1
    p50: Interval
    p90: Interval
    p99: Interval
    throughput: float
    launches: int
    calls: int


class OperatingPoint(Record):
    """How a candidate does at one batch size, with so many threads and calls at once.

    Attributes
    ----------
    threads
        Intra-op threads of one call.
    streams
        Calls that ran at once.
    p50_seconds, p99
        Seconds a call.
    throughput
        Examples a second. While points are tuned, as the anchor's rounds beside them give it, so
        that those of one trial are comparable.
    """

    batch: int
    threads: int
    streams: int
    p50_seconds: float
    p99: Interval
    throughput: float
    calls: int


class Speedup(Record):
    """How many times faster than `against`, paired launch by launch.

    Attributes
    ----------
    against
        ``original`` (its native runtime), ``equivalent`` (the fastest equivalent engine), or a
        recipe id.
    batch
        Examples a call of `against`; the candidate's own are in its deployment.
    ratio
        Reference time over candidate time, of as many examples; above 1 is faster.
    """

    against: str
    batch: int
    ratio: Interval
    launches: int


class Memory(Record):
    """Three numbers, in bytes.

    Attributes
    ----------
    peak
        Peak resident set of a fresh process that loads and runs the artefact, minus a bare
        interpreter with numpy: engine libraries count.
    weights
        Bytes of the weights in the artefact.
    file
        Bytes of the artefact on disk.
    """

    peak: int | None
    weights: int | None
    file: int


class Evidence(Record):
    """Everything known of a trial, as far as it came.

    Attributes
    ----------
    latency
        Of a trial of the race one launch's, which orders candidates; of what is delivered many.
    energy, savings, cost
        None and empty in what earlier versions wrote; `cost` where a price was given.
    points
        Of a trial whose batch size, threads or calls at once were tuned: what was tried, where it
        began first, each in one launch.
    """

    search_quality: Quality | None = None
    prove_quality: Quality | None = None
    latency: tuple[Latency, ...] = ()
    speedups: tuple[Speedup, ...] = ()
    memory: Memory | None = None
    energy: Energy | None = None
    savings: tuple[Saving, ...] = ()
    cost: Cost | None = None
    operators_before: int | None = None
    operators_after: int | None = None
    notes: tuple[str, ...] = Field(default=())
    points: tuple[OperatingPoint, ...] = ()
