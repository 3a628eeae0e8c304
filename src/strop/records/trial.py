"""One recipe tried: how far it came, what it cost, and why it stopped."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from strop.records._base import Record
from strop.records.evidence import Evidence
from strop.records.recipe import Recipe

Status = Literal["alive", "dropped", "failed", "front", "chosen"]
Stage = Literal["build", "screen", "evaluate", "time"]


class Trial(Record):
    """One line of the search's history.

    Attributes
    ----------
    number
        Order of proposal, from 0.
    status
        ``failed`` (it could not be built or run), ``dropped`` (it lost a race: `reason` says
        which), ``alive`` (still in the race), ``front`` (on the Pareto front), ``chosen``.
    stage
        The last stage that it reached.
    reason
        Why it failed or was dropped; empty otherwise.
    failed_step
        Index of the step that could not be applied; no other recipe that begins with the same
        steps is worth a try.
    equivalent
        Whether its recipe can only claim equivalence (no step changes the numbers on purpose).
    artifact_digest
        Digest of what was built: two recipes with the same artefact are one candidate.
    seconds
        Wall seconds by stage.
    stopped
        Why the training of each of its trained steps ended, in their order: ``done``, ``early`` or
        ``time``, empty where the technique does not tell; fewer where it came no further.
    """

    number: int
    recipe: Recipe
    status: Status
    stage: Stage
    reason: str = ""
    failed_step: int | None = None
    equivalent: bool = False
    artifact_digest: str | None = None
    evidence: Evidence = Evidence()
    seconds: dict[str, float] = Field(default_factory=dict)
    stopped: tuple[str, ...] = ()
