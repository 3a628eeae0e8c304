"""Figures as a reader wants them: few digits, a unit, a true minus, a dash where there is none."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from strop.records import Interval, Result

NONE = "–"
_VAGUE = 100.0  # an upper end so many times the estimate tells a reader nothing


def significant(value: float | None, digits: int = 3) -> str:
    """`value` in `digits` significant digits, without exponents where people read without.

    Examples
    --------
    >>> significant(1234.5), significant(0.012345), significant(-2.0), significant(float("nan"))
    ('1,234', '0.0123', '−2.00', '–')
    """
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if abs(value) < 1e-5 or abs(value) >= 1e12:
        mantissa, exponent = f"{value:.1e}".split("e")
        raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return _minus(f"{mantissa}·10{raised}")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return _minus(f"{value:,.{decimals}f}")


def fixed(value: float | None, decimals: int) -> str:
    """`value` with so many decimals, so that a column of them lines up."""
    if value is None or not math.isfinite(value):
        return significant(value)
    return _minus(f"{value + 0.0:,.{decimals}f}")


def ratio(value: float | None) -> str:
    """How many times: ``2.87×``."""
    if value is None or math.isnan(value):
        return NONE
    return (significant(value) if value >= 10 else fixed(value, 2)) + "×"


def percent(share: float) -> str:
    """A confidence or an error as it is spoken of: ``95%``, ``2.5%``, ``99.9%``."""
    digits = 4 if share > 0.5 else 2
    return f"{share * 100:.{digits}g}%" if math.isfinite(share) else significant(share)


def bounds(interval: Interval, scale: float = 1.0, decimals: int | None = None) -> str:
    """The ends of an interval: ``2.81 to 2.93``; empty when it has none."""
    if math.isnan(interval.low) or math.isnan(interval.high):
        return ""

    def text(value: float) -> str:
        return significant(value) if decimals is None else fixed(value, decimals)

    return f"{text(interval.low * scale)} to {text(interval.high * scale)}"


def vague(interval: Interval) -> bool:
    """Whether an interval's end is finite and still says nothing, as one of two launches may be.

    Examples
    --------
    >>> vague(Interval(estimate=0.02, low=7.5e-8, high=9287.0, confidence=0.95))
    True
    >>> vague(Interval(estimate=0.02, low=0.01, high=float("inf"), confidence=0.95))
    False
    """
    return math.isfinite(interval.high) and interval.high > _VAGUE * interval.estimate > 0


def ratio_bounds(interval: Interval) -> str:
    """The ends of a ratio's interval, written as :func:`ratio` writes its middle."""
    return bounds(interval, decimals=2 if interval.high < 10 else None)


def size(count: float | None) -> str:
    """Bytes in decimal units: ``44.7 MB``."""
    if count is None or math.isnan(count):
        return NONE
    for limit, unit in ((1e3, "B"), (1e6, "kB"), (1e9, "MB"), (math.inf, "GB")):
        if abs(count) < limit:
            return f"{significant(count / (limit / 1e3 if limit < math.inf else 1e9))} {unit}"
    return NONE


def joules(value: float | None) -> str:
    """Joules with the prefix that suits them: ``12.3 mJ``."""
    if value is None or not math.isfinite(value):
        return NONE
    for factor, unit in ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ")):
        if value >= factor:
            return f"{significant(value / factor)} {unit}"
    return f"{significant(value * 1e9)} nJ"


def duration(seconds: float | None) -> str:
    """Wall time: ``2 min 05 s``."""
    if seconds is None or not math.isfinite(seconds):
        return NONE
    if seconds >= 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
    if seconds >= 60:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{fixed(seconds, 1)} s"


@dataclass(frozen=True)
class TimeUnit:
    """The unit that all latencies of one table or picture share."""

    name: str
    scale: float

    @classmethod
    def fitting(cls, seconds: Iterable[float]) -> TimeUnit:
        """Microseconds, milliseconds or seconds, by the largest finite value."""
        largest = max((value for value in seconds if math.isfinite(value)), default=0.0)
        if largest >= 10.0:
            return cls("s", 1.0)
        return cls("ms", 1e3) if largest >= 1e-3 or largest == 0.0 else cls("µs", 1e6)

    def __call__(self, seconds: float) -> str:
        return f"{significant(seconds * self.scale)} {self.name}"


@dataclass(frozen=True)
class Score:
    """How scores of the metric are written: as shares in percent, or as plain numbers.

    Attributes
    ----------
    decimals
        Decimals of a drop, so that the tolerance has at least two digits.
    """

    metric: str
    kind: str
    percent: bool
    decimals: int

    @classmethod
    def of(cls, result: Result) -> Score:
        kind = "set"
        for trial in result.trials:
            if trial.evidence.search_quality is not None:
                kind = trial.evidence.search_quality.kind
                break
        for candidate in (result.original, result.delivered):
            found = candidate.evidence.prove_quality or candidate.evidence.search_quality
            kind = found.kind if found is not None else kind
        percent = kind in ("binary", "agreement")
        shown = result.tolerance * (100 if percent else 1)
        small = math.isfinite(shown) and 0 < shown < 1
        decimals = 1 - math.floor(math.log10(shown)) if small else 2
        return cls(result.data.metric, kind, percent, min(max(decimals, 2), 8))

    @property
    def scale(self) -> float:
        return 100.0 if self.percent else 1.0

    def value(self, score: float) -> str:
        """A mean score: ``91.20%`` or ``0.9120``."""
        if self.percent:
            return fixed(score * 100, 2) + ("%" if math.isfinite(score) else "")
        return significant(score, 4)

    def drop(self, drop: float) -> str:
        """A drop with its unit: ``0.21 points`` or ``0.0021``."""
        if not math.isfinite(drop):
            return significant(drop)
        text = fixed(drop * self.scale, self.decimals)
        return f"{text} points" if self.percent else text

    def tolerance(self, tolerance: float) -> str:
        """The tolerance as it was asked for: ``1 point``, ``0.5 points``, ``0.01``."""
        if not math.isfinite(tolerance):
            return significant(tolerance)
        text = f"{tolerance * self.scale:.4g}"
        if not self.percent:
            return text
        return f"{text} point" if text == "1" else f"{text} points"

    def drop_bounds(self, interval: Interval) -> str:
        return bounds(interval, self.scale, self.decimals)


def _minus(text: str) -> str:
    """A true minus sign; minus nothing is nothing."""
    if text.startswith("-"):
        return "−" + text[1:] if any(digit in "123456789" for digit in text) else text[1:]
    return text
