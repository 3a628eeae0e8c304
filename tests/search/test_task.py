from __future__ import annotations

import pytest

from strop.errors import InputError
from strop.search import parse_bytes, parse_seconds, parse_tolerance


@pytest.mark.parametrize(
    ("text", "value", "relative"),
    [("1%", 0.01, False), ("1%rel", 0.01, True), (0.02, 0.02, False), (" 0.5 % ", 0.005, False)],
)
def test_tolerances(text: str | float, value: float, relative: bool) -> None:
    tolerance = parse_tolerance(text)
    assert tolerance.value == pytest.approx(value)
    assert tolerance.relative == relative


@pytest.mark.parametrize("text", ["0", "100%", "-1%", "abc", "1%%", "", "nan", "1..2"])
def test_tolerances_that_mean_nothing(text: str) -> None:
    with pytest.raises(InputError, match="--within"):
        parse_tolerance(text)


@pytest.mark.parametrize("text", ["", "0", "-3s", "10x", "1m2", "inf", "nan"])
def test_times_that_mean_nothing(text: str) -> None:
    with pytest.raises(InputError, match="span of time"):
        parse_seconds(text)


@pytest.mark.parametrize("text", ["", "x", "1XB", "-5MB", "0"])
def test_sizes_that_mean_nothing(text: str) -> None:
    with pytest.raises(InputError, match="size"):
        parse_bytes(text)


def test_relative_tolerance_scales_with_the_original() -> None:
    assert parse_tolerance("2%rel").absolute(0.5) == pytest.approx(0.01)
    assert parse_tolerance("2%").absolute(0.5) == pytest.approx(0.02)
