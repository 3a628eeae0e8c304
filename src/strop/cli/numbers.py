"""Numbers as people read them."""

from __future__ import annotations

import math

from strop.records import Interval


def quantity(value: float, unit: str = "") -> str:
    """A number with a decimal prefix.

    Examples
    --------
    >>> quantity(1_234_567), quantity(2.5e10, "FLOP/s"), quantity(12, "B"), quantity(0)
    ('1.23 M', '25 GFLOP/s', '12 B', '0')
    """
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def duration(seconds: float) -> str:
    """Seconds with the unit that suits them.

    Examples
    --------
    >>> duration(1.5), duration(0.0123), duration(4.2e-05), duration(0.9999)
    ('1.5 s', '12.3 ms', '42 µs', '1 s')
    """
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= 0.9995 * factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def ratio(interval: Interval) -> str:
    """A speed-up with the ends of its interval.

    Examples
    --------
    >>> ratio(Interval(estimate=2.0, low=1.9, high=2.1))
    '2.00× [1.90, 2.10]'
    >>> ratio(Interval(estimate=2.0, low=0.0, high=float("inf")))
    '2.00× (one launch: no interval)'
    """
    if math.isinf(interval.high):
        return f"{interval.estimate:.2f}× (one launch: no interval)"
    return f"{interval.estimate:.2f}× [{interval.low:.2f}, {interval.high:.2f}]"


def points(value: float) -> str:
    """A difference of scores in percentage points, signed.

    Examples
    --------
    >>> points(0.0123), points(-0.5), points(-1e-9)
    ('+1.23', '-50.00', '+0.00')
    """
    return f"{0.0 if abs(value) < 5e-5 else 100 * value:+.2f}"
