from __future__ import annotations

from typing import Any

import pytest

from strop.amounts import parse_bytes, parse_seconds
from strop.errors import InputError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20ms", 0.02), ("5us", 5e-6), ("5µs", 5e-6), (" 1h30m ", 5400.0), ("1.5s", 1.5), (2, 2.0)],
)
def test_seconds(text: Any, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "1.2.3s", "-1s", "1s2", "1 s 2", "nan", "inf", "1e999", "0", 0, True, None]
)
def test_what_is_no_span_of_time(text: Any) -> None:
    with pytest.raises(InputError, match="span of time"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("200MB", 200_000_000), ("1.5GiB", 3 << 29), ("1k", 1000), (" 7 ", 7), ("2 KiB", 2048)],
)
def test_bytes(text: Any, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "B", "1iB", "1.2.3MB", "-1", "1e3", "0", 0, True, None])
def test_what_is_no_size(text: Any) -> None:
    with pytest.raises(InputError, match="size"):
        parse_bytes(text)


def test_nothing_counts_where_it_may() -> None:
    assert parse_seconds("0s", zero=True) == 0
    assert parse_bytes("0MB", zero=True) == 0
