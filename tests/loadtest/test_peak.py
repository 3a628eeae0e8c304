"""The search for the highest rate, against a server that is only computed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from strop.loadtest.arrivals import intended_times
from strop.loadtest.peak import find_peak
from strop.loadtest.record import RateTrial
from strop.loadtest.slo import Slo
from strop.loadtest.tally import Tally


def search(
    monkeypatch: pytest.MonkeyPatch, service: float, slo: Slo
) -> tuple[float, Tally, tuple[RateTrial, ...]]:
    """`find_peak` where one query is answered at a time, in `service` seconds."""

    def count(tally: Tally, latency: float) -> None:
        tally.latency.append(latency)
        tally.status.append(200)
        tally.over += latency > slo.seconds

    async def open_loop(traffic: Any, rate: float, seconds: float, **options: Any) -> Tally:
        tally, free = Tally(slo), 0.0
        for due in intended_times(rate, options["arrivals"], options["seed"]):
            if due >= seconds or tally.over > options["give_up_over"]:
                return tally
            free = max(free, due) + service
            count(tally, free - due)
        raise AssertionError

    async def closed_loop(traffic: Any, clients: int, seconds: float, **options: Any) -> Tally:
        tally = Tally()
        for _ in range(int(seconds / service)):
            count(tally, clients * service)
        return tally

    monkeypatch.setattr("strop.loadtest.peak.open_loop", open_loop)
    monkeypatch.setattr("strop.loadtest.peak.closed_loop", closed_loop)
    traffic: Any = SimpleNamespace(connections=64, first_error="")
    return asyncio.run(find_peak(traffic, slo, 10.0, arrivals="poisson", seed=0))


def test_the_rate_found_is_the_highest_that_holds_the_slo(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 ms a query are 250 a second at most; at about 80% of that, one in a hundred waits so long
    that it misses 40 ms (the heavy-traffic tail of an M/D/1 queue).
    """
    slo = Slo(0.04)
    rate, tally, trials = search(monkeypatch, 0.004, slo)
    assert 0.7 * 250 < rate < 0.85 * 250
    assert tally.judge(slo).verdict == "held"
    assert trials[-1].held and trials[-1].rate == rate
    missed = [trial.rate for trial in trials if not trial.held]
    assert rate < min(missed) < 1.2 * rate


def test_a_server_that_is_too_slow_at_any_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    slo = Slo(0.04)
    _, tally, trials = search(monkeypatch, 0.05, slo)
    assert tally.judge(slo).verdict == "missed"
    assert not any(trial.held for trial in trials)
    assert len(trials) < 12
