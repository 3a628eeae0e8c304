"""The document that `strop optimize --json` prints and a bundle's `evidence/result.json` holds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from strop.records._base import Record
from strop.records.claim import Claim
from strop.records.evidence import Evidence
from strop.records.machine import Machine, Target
from strop.records.recipe import Recipe
from strop.records.signature import Signature
from strop.records.trial import Trial


class Candidate(Record):
    """The original, the fastest equivalent, or what was delivered."""

    recipe: Recipe
    text: str
    evidence: Evidence


class NearMiss(Record):
    """The fastest candidate that could not be claimed, and what would change the verdict."""

    recipe: Recipe
    text: str
    speedup: float | None
    drop: float | None
    reason: str


class Network(Record):
    """A network that was given besides the original, for recipes to start from.

    Attributes
    ----------
    name
        As `Recipe.start` names it.
    content_digest
        Of the model as it was imported.
    """

    name: str
    content_digest: str


class DataSummary(Record):
    """The examples, and how they were split into roles."""

    source: str
    content_digest: str
    examples: int
    roles: dict[str, int]
    metric: str


class Result(Record):
    """The outcome of one search.

    Attributes
    ----------
    status
        ``improved``: the delivered model is claimed and faster than the fastest equivalent
        engine; ``unimproved``: nothing better could be claimed, `reason` says why.
    model, others
        The original, and the other networks that recipes may start from.
    original, equivalent, delivered
        The original in its native runtime, on its fastest equivalent engine, and the bundle's.
    pareto
        Numbers of the trials on the Pareto front of quality, latency, throughput, memory, size.
    seconds
        Wall seconds by phase; ``own`` is what strop spent outside building, evaluating, timing.
    engines_left_out, techniques_left_out
        What took no part, by name, and why.
    operation
        At which batch size, threads and calls at once the delivered runs, in words, and whether
        that keeps the limit on p99 where one was given.
    bundle, report
        Paths relative to the output directory.
    """

    schema_version: int = Field(default=1, alias="schema")
    status: Literal["improved", "unimproved"]
    reason: str
    claim: Claim | None
    model: str
    others: tuple[Network, ...] = ()
    signature: Signature
    data: DataSummary
    target: Target
    machine: Machine
    tolerance: float
    confidence: float
    original: Candidate
    equivalent: Candidate
    delivered: Candidate
    near_miss: NearMiss | None = None
    operation: str = ""
    pareto: tuple[int, ...] = ()
    trials: tuple[Trial, ...] = ()
    warnings: tuple[str, ...] = ()
    engines_left_out: dict[str, str] = Field(default_factory=dict)
    techniques_left_out: dict[str, str] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)
    seed: int = 0
    budget_seconds: float
    bundle: str = "bundle"
    report: str = "report.html"
