"""What a check of a bundle found: plain data, one line a check."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from strop.records import Claim, Record

CheckStatus = Literal["ok", "failed", "unproven"]
Verdict = Literal["confirmed", "refuted", "unproven"]


class Check(Record):
    """One thing that was checked.

    Attributes
    ----------
    status
        ``ok``; ``failed``: it does not hold; ``unproven``: it could not be shown here, and
        `detail` says what is missing.
    detail
        One line.
    """

    name: str
    status: CheckStatus
    detail: str

    def __str__(self) -> str:
        return f"{self.status}: {self.name}: {self.detail}"


class Verification(Record):
    """All checks of one bundle on one machine.

    Attributes
    ----------
    claim
        As it is recorded.
    verdict
        Whether the claim was proven again here, from data: ``confirmed``, ``refuted``, or
        ``unproven`` when it was not tried or cannot be.
    """

    schema_version: int = Field(default=1, alias="schema")
    bundle: str
    claim: Claim | None
    verdict: Verdict
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return all(check.status != "failed" for check in self.checks)
