from __future__ import annotations

import math

import pytest

from strop.records import Interval
from strop.report.numbers import (
    Score,
    TimeUnit,
    bounds,
    duration,
    fixed,
    ratio,
    significant,
    size,
    vague,
)

from . import made


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (2.3149, "2.31"),
        (1234567.0, "1,234,567"),
        (-0.5, "−0.500"),
        (3.1e-9, "3.1·10⁻⁹"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (None, "–"),
    ],
)
def test_significant(value: float | None, text: str) -> None:
    assert significant(value) == text


def test_minus_nothing_is_nothing() -> None:
    assert fixed(-0.0001, 2) == "0.00"


@pytest.mark.parametrize(
    ("low", "high", "nothing"),
    [(0.01, 0.03, False), (0.0, 1.9, False), (7.5e-8, 9287.0, True), (0.01, math.inf, False)],
)
def test_an_interval_of_many_powers_of_ten_is_vague(low: float, high: float, nothing: bool) -> None:
    assert vague(Interval(estimate=0.02, low=low, high=high)) is nothing


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (44_700_000, "44.7 MB"), (2.5e12, "2,500 GB"), (None, "–")],
)
def test_size(count: float | None, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (125.0, "2 min 05 s"), (7260.0, "2 h 01 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("largest", "text"), [(4.2e-5, "42.0 µs"), (0.0042, "4.20 ms"), (42.0, "42.0 s")]
)
def test_one_unit_for_all(largest: float, text: str) -> None:
    assert TimeUnit.fitting([largest / 3, largest, math.inf])(largest) == text


def test_ratios_line_up() -> None:
    assert [ratio(value) for value in (0.86, 2.9, 59.44)] == ["0.86×", "2.90×", "59.4×"]


def test_unknown_ends_are_left_out() -> None:
    assert bounds(Interval(estimate=1, low=math.nan, high=math.nan)) == ""


def test_a_small_tolerance_gets_the_decimals_it_needs() -> None:
    score = Score.of(made.improved(tolerance=0.0002))
    assert score.tolerance(0.0002) == "0.02 points"
    assert score.drop(0.000134) == "0.013 points"


def test_a_relative_tolerance_is_not_rounded_to_a_lie() -> None:
    score = Score.of(made.improved(tolerance=0.00926))
    assert score.tolerance(0.00926) == "0.926 points"
