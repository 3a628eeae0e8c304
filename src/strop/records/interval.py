"""An estimate and the ends between which the truth lies."""

from __future__ import annotations

from strop.records._base import Record


class Interval(Record):
    """An estimate with its confidence interval (two-sided unless a field says otherwise)."""

    estimate: float
    low: float
    high: float
    confidence: float = 0.95
