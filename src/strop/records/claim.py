"""The one sentence that strop stands behind, and what it rests on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from strop.records._base import Record


class Claim(Record):
    """*equivalent*, or *proven within t at confidence c*; there is no third.

    Attributes
    ----------
    kind
        ``equivalent`` or ``proven``.
    metric, tolerance, confidence
        The metric's name, the tolerance in metric units, and the confidence of the test (both
        None for an equivalence, which spends no error).
    method
        The test's name (``exact trinomial``, ``Clopper–Pearson``, ``betting`` …).
    upper
        Upper confidence bound on the mean drop, at `confidence`.
    p
        The test's p-value, already compared against the ledger's share of α.
    n, groups
        Examples and independent groups in the proof set.
    asymptotic
        True for set-level metrics, whose error rate holds only approximately.
    run
        How many times this proof set has been opened, this time included.
    proof_set
        Digest of the proof set.
    isa
        Instruction sets on which the outputs were computed: on another machine the claim is
        unproven until it is verified there.
    """

    schema_version: int = Field(default=1, alias="schema")
    kind: Literal["equivalent", "proven"]
    metric: str
    tolerance: float | None = None
    confidence: float | None = None
    method: str
    upper: float | None = None
    p: float | None = None
    n: int
    groups: int
    asymptotic: bool = False
    run: int | None = None
    proof_set: str = ""
    isa: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.kind == "equivalent":
            return f"equivalent: same outputs within 1e-3 on all {self.n:,} examples"
        assert self.tolerance is not None and self.confidence is not None
        text = (
            f"proven: {self.metric} within {self.tolerance:g} of the original "
            f"at {self.confidence:.0%} confidence on {self.n:,} unseen examples"
        )
        return text + (" (asymptotic)" if self.asymptotic else "")
