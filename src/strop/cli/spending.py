"""Energy and cost in words: the same in every command."""

from __future__ import annotations

from strop.cli.numbers import quantity
from strop.records import Cost, Energy


def joules(found: Energy) -> str:
    """Joules of an inference, and how they are known.

    Examples
    --------
    >>> from strop.records import Interval
    >>> joules(Energy(kind="estimated", source="", joules=Interval(estimate=0.0123, low=0, high=1),
    ...     cpu_seconds=0.004, launches=1, formula=""))
    '12.3 mJ estimated'
    """
    return f"{millis(found.joules.estimate)} {found.kind}"


def millis(value: float) -> str:
    """Joules with the prefix that suits them.

    Examples
    --------
    >>> millis(0.0123), millis(4.2e-5), millis(12), millis(0.9999)
    ('12.3 mJ', '42 µJ', '12 J', '1 J')
    """
    for factor, unit in ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ")):
        if value >= 0.9995 * factor:
            return quantity(value, unit) if factor == 1.0 else f"{value / factor:.3g} {unit}"
    return f"{value * 1e9:.3g} nJ"


def million(found: Cost) -> str:
    """What a million inferences cost at full use.

    Examples
    --------
    >>> from strop.records import Price
    >>> million(Cost(price=Price(per_hour=1.8, currency="$"), throughput=50, per_million=10))
    '$10'
    """
    return found.price.amount(found.per_million)


def at_rate(found: Cost) -> str:
    """What they cost at the rate that is required, and the machines; empty without a rate."""
    if found.machines is None or found.per_million_at_rate is None:
        return ""
    machines = f"{found.machines:,} machine{'s' if found.machines != 1 else ''}"
    return f"{found.price.amount(found.per_million_at_rate)} on {machines}"


def how_energy(found: Energy) -> str:
    """The sentence that goes with energy figures: the formula, and what it rests on."""
    idle = "" if found.idle_watts is None else f"; idle, it showed {found.idle_watts:.3g} W"
    return f"energy {found.kind}: {found.grounds}{idle}"


def how_cost(found: Cost) -> str:
    """The sentence that goes with costs: the price and the bound."""
    return f"cost at {found.price} a machine: {found.bound}"
