"""What a load test found, as plain data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from strop.records import Machine, Record

Scenario = Literal["server", "single-stream", "multi-stream", "offline", "closed"]


class Percentiles(Record):
    """A distribution of latencies in seconds."""

    mean: float
    minimum: float
    p50: float
    p90: float
    p95: float
    p99: float
    p999: float
    maximum: float


class Bin(Record):
    """How many latencies lie from `low` to below `high` seconds."""

    low: float
    high: float
    count: int


class RateTrial(Record):
    """One rate that the search for the highest one tried.

    Attributes
    ----------
    rate
        Queries a second, as offered.
    over
        Queries that were late, refused or failed.
    held
        Whether the SLO was held with confidence.
    """

    rate: float
    queries: int
    over: int
    p99: float | None
    held: bool


class SloVerdict(Record):
    """Whether the server kept its latency, by LoadGen's early-stopping criterion.

    Attributes
    ----------
    slo_seconds
        What latency must not exceed.
    percentile
        For which part of the queries.
    confidence
        Of the verdict ``held``.
    over
        Queries over the limit: late, failed, and refused ones unless those were allowed.
    queries
        Queries that count.
    required
        Queries with which so many over would still pass.
    verdict
        ``missed`` when too large a part was over, ``undecided`` when the part is small enough but
        the queries are too few to be confident.
    refusals_allowed
        Whether refused queries were left out of both counts.
    """

    slo_seconds: float
    percentile: float
    confidence: float
    over: int
    queries: int
    required: int
    verdict: Literal["held", "missed", "undecided"]
    refusals_allowed: bool


class LoadTest(Record):
    """What `strop load-test` prints.

    Attributes
    ----------
    form
        ``binary`` or ``json`` tensors; ``body`` for bytes posted as they are.
    payload
        Where the values came from.
    rows
        Examples in one request.
    samples
        Requests in one query: 8 in multi-stream, otherwise 1.
    rate
        Queries a second, as offered; None outside the server scenario.
    arrivals
        ``poisson`` or ``constant``; None outside the server scenario.
    concurrency
        Queries in flight at once; None in the server scenario.
    seconds
        From the first query's intended time to the last answer, without the warm-up.
    queries
        All that came to an end: ``answered + refused + failed``.
    throughput
        Answered queries a second.
    rows_per_second
        Examples answered a second.
    latency
        Of the answered, from the intended send time; None when none was answered.
    refusal
        Of the refused (503, 429).
    lateness
        How late the generator itself came to a query.
    bound_percentile, bound_seconds
        LoadGen's estimate for single-stream (0.9) and multi-stream (0.99): a latency that this
        part of the queries keeps, at 99% confidence; None elsewhere and with too few queries.
    statuses
        Queries by HTTP status; ``broken`` and ``timeout`` beside them.
    first_error
        What the first failed query was answered; empty where none failed.
    search
        The rates tried, where the highest was sought.
    """

    schema_version: int = Field(default=1, alias="schema")
    url: str
    model: str
    scenario: Scenario
    form: Literal["binary", "json", "body"]
    payload: str
    rows: int
    samples: int
    rate: float | None
    arrivals: Literal["poisson", "constant"] | None
    concurrency: int | None
    connections: int
    seed: int
    seconds: float
    queries: int
    answered: int
    refused: int
    failed: int
    throughput: float
    rows_per_second: float
    latency: Percentiles | None
    refusal: Percentiles | None
    lateness: Percentiles | None
    histogram: tuple[Bin, ...]
    bound_percentile: float | None
    bound_seconds: float | None
    statuses: dict[str, int]
    first_error: str
    verdict: SloVerdict | None
    search: tuple[RateTrial, ...]
    notes: tuple[str, ...]
    machine: Machine
