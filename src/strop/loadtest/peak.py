"""The highest rate that holds an SLO: LoadGen's server scenario, searched."""

from __future__ import annotations

import math

from strop.errors import StropError
from strop.loadtest.arrivals import Arrivals
from strop.loadtest.earlystop import allowed, required
from strop.loadtest.generator import Traffic, closed_loop, open_loop
from strop.loadtest.record import RateTrial
from strop.loadtest.slo import Slo
from strop.loadtest.tally import Tally, percentiles

_CAPACITY_SECONDS = 2.0
_RECOVERY_SECONDS = 0.5
_CLOSE_ENOUGH = 1.05
_MOST_TRIALS = 12
_LONGEST_STRETCH = 6.0
_QUERIES_TO_SPARE = 1.2


async def find_peak(
    traffic: Traffic, slo: Slo, seconds: float, *, arrivals: Arrivals, seed: int
) -> tuple[float, Tally, tuple[RateTrial, ...]]:
    """The rate, the run that confirms it, and every rate that was tried.

    A short closed loop says what the server can do at most; the rates below are bisected by ratio
    until the best that held and the least that did not are within 5%. Every trial is an open loop
    of its own, with fresh arrivals, that is given up as soon as it cannot pass any more. The rate
    found was chosen for having passed, so it is run again, and lowered until a run confirms it:
    the verdict belongs to that run alone.
    """
    top = await closed_loop(traffic, traffic.connections, _CAPACITY_SECONDS, phase="capacity")
    answered = len(top.latencies())
    if not answered:
        raise StropError(f"no query was answered at full load: {traffic.first_error or 'refused'}")
    # Below it, the longest trial has too few queries for a verdict.
    least = _QUERIES_TO_SPARE * required(0, slo.percentile, slo.confidence)
    floor = least / (_LONGEST_STRETCH * seconds)
    low, high = 0.0, 1.1 * answered / _CAPACITY_SECONDS
    rate = max(0.7 * high, floor)
    trials: list[RateTrial] = []
    confirming = False
    while True:
        found, tally = await _try(
            traffic, slo, rate, seconds, arrivals, seed + 1 + len(trials), confirming
        )
        trials.append(found)
        if confirming:
            if found.held or rate <= floor or len(trials) >= 2 * _MOST_TRIALS:
                return rate, tally, tuple(trials)
            rate = max(rate / _CLOSE_ENOUGH, floor)
            continue
        if found.held:
            low = rate
        else:
            high = rate
            if rate <= floor:
                return rate, tally, tuple(trials)
        if low and (high / low <= _CLOSE_ENOUGH or len(trials) >= _MOST_TRIALS):
            rate, confirming = low, True
        else:
            rate = max(math.sqrt(low * high) if low else high / 2, floor)


async def _try(
    traffic: Traffic,
    slo: Slo,
    rate: float,
    seconds: float,
    arrivals: Arrivals,
    seed: int,
    confirming: bool,
) -> tuple[RateTrial, Tally]:
    """One rate for `seconds`, or up to six times as long where that gives too few queries."""
    least = _QUERIES_TO_SPARE * required(0, slo.percentile, slo.confidence) / rate
    seconds = min(max(seconds, least), _LONGEST_STRETCH * seconds)
    spare = allowed(int(rate * seconds), slo.percentile, slo.confidence)
    tally = await open_loop(
        traffic,
        rate,
        seconds,
        arrivals=arrivals,
        seed=seed,
        slo=slo,
        # Poisson arrivals may bring a few more queries than expected, and so a few more to spare.
        give_up_over=max(2 * spare, 5),
        phase=f"{'confirming' if confirming else 'trying'} {rate:,.0f}/s",
    )
    verdict = tally.judge(slo)
    latency = percentiles(tally.latencies())
    held = verdict.verdict == "held"
    if not held:  # let the server work off what is left before the next trial
        await closed_loop(traffic, 1, _RECOVERY_SECONDS, phase="recovering")
    trial = RateTrial(
        rate=rate,
        queries=len(tally),
        over=verdict.over,
        p99=latency.p99 if latency else None,
        held=held,
    )
    return trial, tally
