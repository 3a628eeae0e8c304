"""What inferences cost on machines of a given price."""

from __future__ import annotations

import math

from strop.records import Cost, Price

_MILLION, _HOUR = 1e6, 3600.0


def cost(
    price: Price,
    throughput: float,
    *,
    rate: float | None = None,
    max_utilisation: float = 1.0,
    bound: str = "",
) -> Cost:
    """Of a million inferences at full use and, where a rate is required, at that rate.

    At a rate whole machines are paid, busy or not: ``ceil(rate / (throughput × utilisation))``.

    Parameters
    ----------
    price
        Of one machine.
    throughput
        Examples a second of one machine at full use.
    rate
        Examples a second that are required of all machines together.
    max_utilisation
        The share of its throughput that a machine is given at most: at all of it, requests that
        come at random wait without end.
    bound
        What is known of latency at that throughput, in words.

    Examples
    --------
    >>> found = cost(Price(per_hour=0.18), 500, rate=1200, max_utilisation=0.7)
    >>> round(found.per_million, 6), found.machines, round(found.per_million_at_rate, 6)
    (0.1, 4, 0.166667)
    """
    per_second = price.per_hour / _HOUR
    machines = at_rate = None
    if rate is not None:
        # A hair's breadth above a whole number is a rounding error, and no further machine.
        machines = max(math.ceil(rate / (throughput * max_utilisation) - 1e-9), 1)
        at_rate = machines * per_second / rate * _MILLION
    return Cost(
        price=price,
        throughput=throughput,
        per_million=per_second / throughput * _MILLION,
        rate=rate,
        max_utilisation=max_utilisation,
        machines=machines,
        per_million_at_rate=at_rate,
        bound=bound,
    )
