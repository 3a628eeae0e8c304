"""What a benchmark found, as plain data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from strop.records import Cost, Energy, Machine, Record

Scenario = Literal["SingleStream", "MultiStream", "Server", "Offline"]


class Checks(Record):
    """LoadGen's own checks of a run.

    Attributes
    ----------
    min_duration, min_queries
        Whether it ran long enough and issued enough queries.
    early_stopping
        Whether enough queries were seen for the percentile to hold at 99% confidence.
    latency
        Whether the percentile kept the bound; null for scenarios without one.
    """

    min_duration: bool
    min_queries: bool
    early_stopping: bool
    latency: bool | None


class Histogram(Record):
    """Queries by latency.

    Attributes
    ----------
    edges
        Seconds, evenly spaced in the logarithm; one more than `counts`.
    counts
        Queries whose latency lies between two edges.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class Attempt(Record):
    """One short run at one rate, on the way to the highest rate that is valid."""

    rate: float
    valid: bool
    p99_seconds: float


class ScenarioResult(Record):
    """One scenario, as LoadGen judged it.

    Attributes
    ----------
    valid
        LoadGen's ``Result is``.
    metric, value
        What MLPerf reports of the scenario: LoadGen's early-stopping estimate of the 90th
        percentile in seconds (SingleStream), of the 99th of a query of 8 (MultiStream), completed
        samples a second (Server), samples a second (Offline). Null where early stopping gave no
        estimate.
    why
        LoadGen's reason for an invalid result; empty otherwise.
    early_stopping
        What LoadGen says of early stopping.
    slo_seconds, slo_kept
        The bound that was asked for, or chosen for the server scenario, and whether the scenario's
        percentile keeps it; null where there is none.
    rate
        Queries a second that LoadGen scheduled on average; null but for the server.
    queries, samples, seconds
        Issued in the run, and how long it took.
    percentiles
        Latency of a query in seconds at ``50``, ``90``, ``95``, ``97``, ``99``, ``99.9``.
    histogram
        Null for the offline scenario, which is one query, and for very many queries.
    attempts
        The search for the rate, in order.
    energy
        Of an inference, over the whole run: LoadGen's own threads and waiting are part of it.
    cost
        Of inferences at the samples a second of the run; null without a price.
    """

    scenario: Scenario
    valid: bool
    metric: str
    value: float | None
    why: str
    checks: Checks
    early_stopping: str
    slo_seconds: float | None
    slo_kept: bool | None
    rate: float | None
    queries: int
    samples: int
    seconds: float
    samples_per_second: float
    mean: float
    percentiles: dict[str, float]
    histogram: Histogram | None
    attempts: tuple[Attempt, ...]
    energy: Energy | None = None
    cost: Cost | None = None


class Bench(Record):
    """What `strop bench` prints.

    Attributes
    ----------
    batch
        The most examples that a call takes together, in the scenarios that offer several.
    loadgen
        LoadGen's version.
    min_duration
        Seconds that a run must last.
    samples
        Examples that LoadGen draws from.
    """

    schema_version: int = Field(default=1, alias="schema")
    bundle: str
    recipe: str
    data: str
    samples: int
    batch: int
    threads: int
    streams: int
    loadgen: str
    min_duration: float
    scenarios: tuple[ScenarioResult, ...]
    notes: tuple[str, ...]
    machine: Machine
