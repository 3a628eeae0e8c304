"""Spans of time and sizes as people write them."""

from __future__ import annotations

import re

from strop.errors import InputError

_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}
_SPAN = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ms|us|µs|h|m|s)")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([KMGT]?)(i?)B?", re.IGNORECASE)


def parse_seconds(text: str | float) -> float:
    """Seconds from ``"20ms"``, ``"1.5s"``, ``"1m30s"`` or a plain number of seconds; 0 is allowed.

    Examples
    --------
    >>> parse_seconds("20ms"), parse_seconds("1m30s"), parse_seconds(2)
    (0.02, 90.0, 2.0)
    """
    plain = str(text).strip()
    parts = _SPAN.findall(plain)
    if parts and "".join(number + unit for number, unit in parts) == plain:
        return float(sum(float(number) * _SECONDS[unit] for number, unit in parts))
    try:
        seconds = float(plain)
    except ValueError:
        seconds = -1.0
    if isinstance(text, bool) or not 0 <= seconds < float("inf"):
        raise InputError(f"'{text}' is not a span of time", hint="write it as 20ms, 1.5s or 2m")
    return seconds


def parse_size(text: str | int) -> int:
    """Bytes from ``"256MB"``, ``"1.5GiB"`` or a plain number of bytes; 0 is allowed.

    Examples
    --------
    >>> parse_size("256MB"), parse_size("1KiB"), parse_size(7)
    (256000000, 1024, 7)
    """
    found = _SIZE.fullmatch(str(text).strip())
    if isinstance(text, bool) or not found or (found[3] and not found[2]):
        raise InputError(f"'{text}' is not a size", hint="write it as 256MB or 1.5GiB")
    power = " KMGT".index(found[2].upper() or " ")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)
