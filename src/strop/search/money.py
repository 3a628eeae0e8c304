"""Prices, rates, watts and shares as people write them."""

from __future__ import annotations

import math
import re

from strop.errors import InputError
from strop.records import Price

_NUMBER = r"[+-]?(?:[0-9.]+(?:[eE][+-]?[0-9]+)?|nan|inf)"
_CURRENCY = r"[^\W\d_]{3}|[$€£¥₹]|"
_HOURS = {
    "s": 1 / 3600,
    "sec": 1 / 3600,
    "second": 1 / 3600,
    "min": 1 / 60,
    "minute": 1 / 60,
    "h": 1.0,
    "hr": 1.0,
    "hour": 1.0,
    "d": 24.0,
    "day": 24.0,
    "month": 730.0,
}


def parse_price(text: str) -> Price:
    """A machine's price from ``"0.18/h"``, ``"$0.18/h"``, ``"4.32 EUR/day"``; currency as given.

    A month counts 730 hours.

    Raises
    ------
    InputError
        When the text is no price, names no time, or is not above zero.

    Examples
    --------
    >>> parse_price("0.18/h"), str(parse_price("$1.20/day"))
    (Price(per_hour=0.18, currency=''), '$0.05/h')
    """
    found = re.fullmatch(
        rf"\s*({_CURRENCY})\s*({_NUMBER})\s*({_CURRENCY})\s*(?:/\s*([a-z]+))?\s*", str(text)
    )
    if not found or (found[1] and found[3]):
        raise InputError(f"'{text}' is not a price", hint="write --price 0.18/h")
    if found[4] is None:
        raise InputError(f"the price '{text}' does not say for how long", hint="write 0.18/h")
    if found[4] not in _HOURS:
        raise InputError(
            f"the price '{text}' is for an unknown time, '{found[4]}'",
            hint="known: h, min, s, day, month",
        )
    return Price(
        per_hour=_positive(found[2], f"the price '{text}'") / _HOURS[found[4]],
        currency=found[1] or found[3],
    )


def parse_rate(text: str | float) -> float:
    """Inferences a second from ``"200/s"``, ``"12000/min"``, ``"1e6/day"``.

    Raises
    ------
    InputError
        When the text is no rate, names no time, or is not above zero.

    Examples
    --------
    >>> parse_rate("200/s"), parse_rate("12000/min")
    (200.0, 200.0)
    """
    found = re.fullmatch(rf"\s*({_NUMBER})\s*/\s*([a-z]+)\s*", str(text))
    if not found or found[2] not in _HOURS:
        raise InputError(f"'{text}' is not a rate: a number and a time", hint="write --rate 200/s")
    return _positive(found[1], f"the rate '{text}'") / (_HOURS[found[2]] * 3600.0)


def parse_watts(text: str | float) -> float:
    """Watts from ``"3.5"`` or ``"3.5W"``.

    Raises
    ------
    InputError
        When the text is no number above zero.
    """
    found = re.fullmatch(rf"\s*({_NUMBER})\s*W?\s*", str(text))
    if not found:
        raise InputError(f"'{text}' is not watts", hint="write --watts-per-core 3.5")
    return _positive(found[1], f"watts of '{text}'")


def parse_share(text: str | float) -> float:
    """A share above 0 and at most 1 from ``"70%"`` or ``0.7``.

    Raises
    ------
    InputError
        When the text is none.
    """
    found = re.fullmatch(rf"\s*({_NUMBER})\s*(%?)\s*", str(text))
    try:
        value = float(found[1]) / (100 if found[2] else 1) if found else math.nan
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise InputError(
            f"the utilisation '{text}' is not a share above 0 and at most 1", hint="write 70%"
        )
    return value


def _positive(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{what} is not a number") from None
    if not 0 < value < math.inf:
        raise InputError(f"{what} is not a number above zero")
    return value
