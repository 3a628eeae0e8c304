"""How many machines a required rate takes, and whether a faster candidate saves one."""

from __future__ import annotations

from strop.measure import PairTiming, cost, speedup
from strop.records import Price, Target


def saves_none(target: Target, timing: PairTiming, name: str) -> str:
    """Why `b` of a pair is not surely cheaper than `a` at the rate that is required.

    Whole machines are paid, so a faster model may cost the same. Empty where it surely takes fewer
    of them, or where no rate decides: none was given, or the goal is another.

    Parameters
    ----------
    timing
        `a` the fastest equivalent, `b` the candidate; at least two launches.
    name
        What the candidate is called in the answer.
    """
    price, rate = target.price, target.rate
    if target.goal != "cost" or price is None or rate is None:
        return ""
    ratio = speedup(timing, "").ratio
    equivalent, _ = timing.rates
    before, likely, sure = (
        _machines(price, rate, target.max_utilisation, equivalent * factor)
        for factor in (1.0, ratio.estimate, ratio.low)
    )
    if sure < before:
        return ""
    at = f"at {rate:,.6g} inferences/s"
    count = f"{before:,} machine{'s' if before != 1 else ''}"
    if likely >= before:
        return f"{at} {name} needs {count}, as the fastest equivalent does: faster, but no cheaper"
    return (
        f"{at} {name} is not surely cheaper: {likely:,} or {sure:,} machines, where the fastest "
        f"equivalent needs {before:,}"
    )


def _machines(price: Price, rate: float, utilisation: float, throughput: float) -> int:
    found = cost(price, throughput, rate=rate, max_utilisation=utilisation).machines
    assert found is not None, "there is a rate"
    return found
