"""What the search says while it works; progress views and the journal listen."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from strop.records._base import Record
from strop.records.claim import Claim
from strop.records.trial import Trial


class SearchStarted(Record):
    """The facts that a resumed search must find unchanged.

    `rows` tells how many examples of each role the budget has time for.
    """

    event: Literal["search-started"] = "search-started"
    schema_version: int = Field(default=1, alias="schema")
    task: dict[str, Any]
    budget_seconds: float
    candidates: int
    rows: dict[str, int] = Field(default_factory=dict)


class StageEntered(Record):
    """The search moved on: ``reference``, ``race``, ``timing``, ``proof``, ``bundle``."""

    event: Literal["stage-entered"] = "stage-entered"
    stage: str
    detail: str = ""


class TrialStarted(Record):
    event: Literal["trial-started"] = "trial-started"
    number: int
    recipe_text: str


class TrialFinished(Record):
    """A trial's record as it stands now; a later event with the same number replaces it."""

    event: Literal["trial-finished"] = "trial-finished"
    trial: Trial
    elapsed: float


class BestChanged(Record):
    event: Literal["best-changed"] = "best-changed"
    number: int
    recipe_text: str
    seconds: float
    speedup: float


class Warned(Record):
    """Something the user should know, that stops nothing."""

    event: Literal["warned"] = "warned"
    message: str


class ProofOpened(Record):
    """The proof set was opened: written before the first look, so that no crash hides a look."""

    event: Literal["proof-opened"] = "proof-opened"
    plan_digest: str
    run: int


class ProofFinished(Record):
    event: Literal["proof-finished"] = "proof-finished"
    number: int
    claim: Claim | None
    upper: float | None
    p: float | None


class SearchFinished(Record):
    event: Literal["search-finished"] = "search-finished"
    improved: bool
    reason: str
    elapsed: float


Event = (
    SearchStarted
    | StageEntered
    | TrialStarted
    | TrialFinished
    | BestChanged
    | Warned
    | ProofOpened
    | ProofFinished
    | SearchFinished
)

_ADAPTER: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


def read_event(text: str | bytes) -> Event:
    """The event that one JSON line holds; raises ValueError when it is none."""
    return _ADAPTER.validate_json(text)
