"""Spans of time and sizes as people write them, on the command line and in files."""

from __future__ import annotations

import re

from strop.errors import InputError

_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}
_SPAN = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ms|us|µs|h|m|s)")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([KMGT]?)(i?)B?", re.IGNORECASE)


def parse_seconds(text: str | float, *, zero: bool = False) -> float:
    """Seconds from ``"20ms"``, ``"90s"``, ``"1h30m"`` or a plain number of seconds.

    Parameters
    ----------
    zero
        Whether none at all is a span, too.

    Raises
    ------
    InputError
        When it is none of these, endless, or not above 0.

    Examples
    --------
    >>> parse_seconds("1h30m"), parse_seconds("20ms"), parse_seconds(5)
    (5400.0, 0.02, 5.0)
    """
    plain = str(text).strip()
    parts = _SPAN.findall(plain)
    if parts and "".join(number + unit for number, unit in parts) == plain:
        seconds = float(sum(float(number) * _SECONDS[unit] for number, unit in parts))
    else:
        try:
            seconds = float(plain)
        except ValueError:
            seconds = -1.0
    if isinstance(text, bool) or not (0 < seconds < float("inf") or (zero and seconds == 0)):
        raise InputError(
            f"'{text}' is not a span of time", hint="write it as 20ms, 90s, 10m or 1h30m"
        )
    return seconds


def parse_bytes(text: str | int, *, zero: bool = False) -> int:
    """Bytes from ``"200MB"``, ``"1.5GiB"`` or a plain number of bytes.

    Parameters
    ----------
    zero
        Whether none at all is a size, too.

    Raises
    ------
    InputError
        When it is none of these, or not above 0.

    Examples
    --------
    >>> parse_bytes("200MB"), parse_bytes("1KiB"), parse_bytes(7)
    (200000000, 1024, 7)
    """
    found = _SIZE.fullmatch(str(text).strip())
    size = -1
    if found and not isinstance(text, bool) and not (found[3] and not found[2]):
        power = " KMGT".index(found[2].upper() or " ")
        size = int(float(found[1]) * (1024 if found[3] else 1000) ** power)
    if size < 0 or (size == 0 and not zero):
        raise InputError(f"'{text}' is not a size", hint="write it as 200MB or 1.5GiB")
    return size
