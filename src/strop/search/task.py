"""What a user asks for, as plain data: the same task gives the same search."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field

from strop.errors import InputError
from strop.records import Goal, Network, Price
from strop.records._base import Record


class Tolerance(Record):
    """How much of the metric may be lost.

    Examples
    --------
    >>> parse_tolerance("1%")
    Tolerance(value=0.01, relative=False)
    >>> parse_tolerance("1%rel").absolute(reference=0.5)
    0.005
    """

    value: float
    relative: bool = False

    def absolute(self, reference: float) -> float:
        """The tolerance in metric units, given the original's score."""
        return self.value * abs(reference) if self.relative else self.value

    def __str__(self) -> str:
        return f"{self.value:.4g}" + (" (relative)" if self.relative else "")


def parse_tolerance(text: str | float) -> Tolerance:
    """A tolerance from ``0.01``, ``"1%"`` or ``"1%rel"``.

    Raises
    ------
    InputError
        When the text is none of these, or not above 0 and below 1.
    """
    found = re.fullmatch(r"\s*([0-9.eE+-]+)\s*(%?)\s*(rel)?\s*", str(text))
    try:
        value = float(found[1]) / (100 if found[2] else 1) if found else float("nan")
    except ValueError:
        value = float("nan")
    if not 0 < value < 1:
        raise InputError(
            f"the tolerance '{text}' is not a number above 0 and below 1",
            hint="write --within 1% (0.01 in metric units) or --within 1%rel",
        )
    return Tolerance(value=value, relative=bool(found and found[3]))


class Task(Record):
    """One search, as it was asked for.

    Attributes
    ----------
    model, data, train, prove
        What was given, as text for people; digests below say what it was.
    batch
        None where the search is to choose it.
    others
        The networks besides the original that recipes may start from.
    shapes
        Dimensions by input for models without examples, as ``--shape`` gives them.
    """

    schema_version: int = Field(default=1, alias="schema")
    model: str
    model_digest: str
    data: str
    data_digest: str
    tolerance: Tolerance
    confidence: float
    metric: dict[str, Any]
    goal: Goal
    batch: int | None
    threads: int | None
    max_memory_bytes: int | None
    max_p99_seconds: float | None
    engines: tuple[str, ...] | None
    techniques: tuple[str, ...] | None
    strategy: str
    seed: int
    price: Price | None = None
    rate: float | None = None
    max_utilisation: float = 1.0
    watts_per_core: float | None = None
    device: str = "cpu"
    others: tuple[Network, ...] = ()
