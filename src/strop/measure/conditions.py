"""Under what conditions a session is timed: its CPUs, its limits, one call at a time or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LOADER = "strop.measure.tasks:load"
"""The function that opens a session in the child; others serve fault injection in tests."""
PATIENCE = 120.0
"""Seconds that one inference, or loading, may take before its process counts as hung."""


@dataclass(frozen=True)
class Conditions:
    """What all timed processes of one measurement share.

    Attributes
    ----------
    cpus
        The CPUs to pin them to; None means all granted ones. Ignored where the system cannot pin.
    deadline
        A `time.monotonic` value. As it nears, less is measured.
    patience
        Seconds that one inference, or loading, may take.
    memory_limit
        Bytes of resident memory beyond which a session counts as failed.
    concurrent
        Whether a session is called by as many threads at once as its placement has streams. What
        is timed is then the mean time between two calls that end: the reciprocal of the rate.
    loader
        The function that opens the session in the child.
    """

    cpus: Sequence[int] | None = None
    deadline: float | None = None
    patience: float = PATIENCE
    memory_limit: int | None = None
    concurrent: bool = False
    loader: str = LOADER


PLAIN = Conditions()
"""One call at a time on all granted CPUs, without a deadline."""
