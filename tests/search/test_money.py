"""Prices, rates, watts and shares: read as they are meant, refused where they mean nothing."""

from __future__ import annotations

from typing import Any

import pytest

from strop.errors import InputError
from strop.records import Price
from strop.search import Request, parse_price, parse_rate, parse_share, parse_watts


@pytest.mark.parametrize(
    ("text", "per_hour", "currency"),
    [
        ("0.18/h", 0.18, ""),
        ("$0.18/h", 0.18, "$"),
        ("€ 2.40 / day", 0.1, "€"),
        ("0.18 EUR/h", 0.18, "EUR"),
        ("0.18EUR/hour", 0.18, "EUR"),
        ("CHF0.002/min", 0.12, "CHF"),
        ("730/month", 1.0, ""),
        ("5e-5/s", 0.18, ""),
    ],
)
def test_a_price_is_by_the_hour_in_its_own_currency(
    text: str, per_hour: float, currency: str
) -> None:
    found = parse_price(text)
    assert found.per_hour == pytest.approx(per_hour)
    assert found.currency == currency


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0.18", "does not say for how long"),
        ("$0.18", "does not say for how long"),
        ("0/h", "above zero"),
        ("-0.18/h", "above zero"),
        ("nan/h", "above zero"),
        ("inf/h", "above zero"),
        ("1e999/h", "above zero"),
        ("1.2.3/h", "not a number"),
        ("0.18/parsec", "parsec"),
        ("", "not a price"),
        ("free", "not a price"),
        ("$0.18 EUR/h", "not a price"),
        ("/h", "not a price"),
        ("0.18/h please", "not a price"),
    ],
)
def test_no_price(text: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        parse_price(text)


@pytest.mark.parametrize(
    ("text", "rate"), [("200/s", 200.0), ("12000/min", 200.0), ("1e6/day", 1e6 / 86400)]
)
def test_a_rate_is_by_the_second(text: str, rate: float) -> None:
    assert parse_rate(text) == pytest.approx(rate)


@pytest.mark.parametrize("text", ["200", "0/s", "-1/s", "nan/s", "inf/s", "200/q", "", "$2/s", "s"])
def test_no_rate(text: str) -> None:
    with pytest.raises(InputError):
        parse_rate(text)


@pytest.mark.parametrize("text", ["0", "-3", "nan", "inf", "", "3.5kW", "three"])
def test_no_watts(text: str) -> None:
    with pytest.raises(InputError):
        parse_watts(text)


def test_watts_and_shares() -> None:
    assert parse_watts("3.5") == parse_watts("3.5W") == parse_watts(3.5) == 3.5
    assert parse_share("70%") == parse_share(0.7) == 0.7
    for text in ("0%", "101%", "-1", "nan", "nan%", "2", "", "most"):
        with pytest.raises(InputError, match="utilisation"):
            parse_share(text)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"goal": "cost"}, "needs a price"),
        ({"rate": "200/s"}, "no price"),
        ({"price": "0.18"}, "for how long"),
        ({"price": "0.18/h", "rate": "0/s"}, "above zero"),
        ({"price": "0.18/h", "max_utilisation": "50%"}, "no rate"),
        ({"price": "0.18/h", "rate": "2/s", "max_utilisation": "0%"}, "utilisation"),
        ({"watts_per_core": "-2"}, "above zero"),
        ({"goal": "joules"}, "energy, cost"),
    ],
)
def test_a_request_that_means_nothing_is_refused(asked: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        Request(model="m.onnx", data="d.npz", within="1%", output="out", **asked).check()


def test_a_request_that_means_something_is_taken() -> None:
    request = Request(
        model="m.onnx",
        data="d.npz",
        within="1%",
        output="out",
        goal="cost",
        price="$0.18/h",
        rate="200/s",
        max_utilisation="70%",
        watts_per_core="4",
    )
    request.check()
    assert request.machine_price == Price(per_hour=0.18, currency="$")
    assert (request.required_rate, request.utilisation, request.watts) == (200.0, 0.7, 4.0)
