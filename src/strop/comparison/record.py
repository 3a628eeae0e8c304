"""What a comparison found, as plain data."""

from __future__ import annotations

from pydantic import Field

from strop.records import Interval, Latency, Machine, Record, ScoreKind, Speedup


class Side(Record):
    """One of the two.

    Attributes
    ----------
    given
        What was given, without folders.
    kind
        ``bundle``, or what a model came as: ``onnx``, ``module``, ``torch.export``,
        ``transformers``, ``keras``, ``savedmodel``, ``tflite``, ``scikit-learn`` …
    recipe
        How it runs: steps, engine and options.
    score
        The mean score, or the metric's value over the set.
    """

    given: str
    kind: str
    recipe: str
    content_digest: str
    score: float


class Comparison(Record):
    """What `strop compare` prints.

    Attributes
    ----------
    examples, groups
        Examples scored, and how many of them are independent.
    difference
        The score of `b` less that of `a`, with a two-sided interval from the exact test taken
        both ways; its ends are NaN for set-level metrics.
    may_lose
        One-sided upper bound, at `confidence`, on how much less `b` scores than `a` on examples
        like these; None for set-level metrics.
    method
        The test that both come from; empty for set-level metrics.
    lost, won
        Examples on which `b` scores less, and more, than `a`.
    changed
        Examples whose decision differs.
    max_relative_error
        The largest relative error of any output of `b` against `a`, over examples.
    speedup
        How many times faster than `a` the other one is; None where nothing was timed.
    """

    schema_version: int = Field(default=1, alias="schema")
    a: Side
    b: Side
    data: str
    data_digest: str
    metric: str
    kind: ScoreKind
    examples: int
    groups: int
    difference: Interval
    confidence: float
    may_lose: float | None
    method: str
    lost: int
    won: int
    changed: int
    max_relative_error: float
    batch: int
    a_latency: Latency | None
    b_latency: Latency | None
    speedup: Speedup | None
    notes: tuple[str, ...]
    machine: Machine
