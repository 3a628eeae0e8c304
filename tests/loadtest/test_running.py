"""Whole load tests against a server whose service time is known."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from strop.errors import InputError
from strop.loadtest import LoadTest, Moment, Plan, Slo, run
from strop.loadtest.generator import closed_loop

from .servers import END, Server

Serve = Callable[..., Server]


@pytest.fixture
def a_hundred(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed loops end after a hundred queries, not after a time in which a busy machine may have
    come to fewer.
    """
    monkeypatch.setattr(
        "strop.loadtest.running.closed_loop", functools.partial(closed_loop, most=100)
    )


def test_a_stall_shows_in_the_percentiles_of_an_open_loop(serve: Serve) -> None:
    """No coordinated omission: all queries that were due during the stall have felt it."""
    stall: list[float] = []

    async def answer(server: Server) -> int:
        now = time.perf_counter()
        if not stall and len(server.requests) > 100:
            stall.append(now + 0.5)
        await asyncio.sleep(max(0.0, stall[0] - now) if stall else 0.0)
        return 200

    server = serve(answer)
    # Four connections: a closed loop would have noticed the stall on four queries.
    plan = Plan(server.url, rate=200, duration=2.0, warm_up=0, connections=4, slo=Slo(0.25), seed=1)
    found = run(replace(plan, timeout=END))
    assert found.scenario == "server" and found.arrivals == "poisson"
    assert found.latency is not None
    assert found.answered == found.queries == pytest.approx(400, rel=0.25)
    assert found.latency.p99 > 0.4
    assert found.verdict is not None and found.verdict.verdict == "missed"
    # Half a second at 200 a second: about a hundred felt it, half of them for over 0.25 s.
    assert found.verdict.over >= 25


def test_constant_arrivals_come_when_they_are_meant_to(serve: Serve) -> None:
    server = serve()
    begun = time.perf_counter()
    plan = Plan(server.url, rate=100, arrivals="constant", duration=1.0, warm_up=0, timeout=END)
    found = run(plan)
    assert found.queries == 100
    assert found.rate == 100 and found.arrivals == "constant"
    early = np.array(server.arrived[-100:]) - begun - 0.01 * np.arange(100)
    assert (early > 0).all()  # late some may be, on a busy machine; the record says how late
    assert found.lateness is not None


def test_poisson_arrivals_are_the_same_for_the_same_seed(serve: Serve) -> None:
    server = serve()
    plan = Plan(server.url, rate=200, duration=0.5, warm_up=0, connections=8, timeout=END)
    one, same, other = (run(replace(plan, seed=seed)) for seed in (1, 1, 2))
    assert one.queries == same.queries != other.queries


def test_queries_over_the_slo_are_counted_and_judged(serve: Serve) -> None:
    server = serve(seconds=0.05)
    plan = Plan(server.url, rate=300, duration=2.0, warm_up=0, slo=Slo(0.02), timeout=END)
    found = run(plan)
    assert found.verdict is not None and found.latency is not None
    assert found.verdict.verdict == "missed" and found.verdict.over == found.queries
    assert found.latency.minimum >= 0.045


def test_too_few_queries_leave_the_verdict_undecided(serve: Serve) -> None:
    plan = Plan(serve().url, rate=50, duration=0.5, warm_up=0, slo=Slo(END), timeout=END)
    found = run(plan)
    assert found.verdict is not None
    assert found.verdict.verdict == "undecided" and found.verdict.required == 459


def test_a_held_slo(serve: Serve) -> None:
    plan = Plan(serve().url, rate=500, duration=1.2, warm_up=0, slo=Slo(END), timeout=END)
    found = run(plan)
    assert found.verdict is not None
    assert found.verdict.verdict == "held" and found.verdict.queries >= 459


def test_refusals_are_counted_apart(serve: Serve) -> None:
    async def answer(server: Server) -> int:
        return 503 if len(server.requests) % 2 else 200

    server = serve(answer)
    plan = Plan(server.url, rate=1000, duration=1.2, warm_up=0, connections=16, timeout=END)
    strict = run(replace(plan, slo=Slo(END)))
    assert strict.refused > 400 and strict.answered > 400 and strict.failed == 0
    assert strict.refusal is not None and strict.statuses.keys() == {"200", "503"}
    assert strict.verdict is not None
    assert strict.verdict.verdict == "missed" and strict.verdict.over == strict.refused
    allowing = run(replace(plan, slo=Slo(END, allow_refusals=True)))
    assert allowing.verdict is not None
    assert allowing.verdict.verdict == "held" and allowing.verdict.over == 0
    assert allowing.verdict.queries == allowing.answered


@pytest.mark.usefixtures("a_hundred")
def test_failures_say_what_the_first_one_was(serve: Serve) -> None:
    async def answer(server: Server) -> int:
        return {5: 500, 9: 0}.get(len(server.requests), 200)

    found = run(Plan(serve(answer).url, concurrency=1, duration=END, warm_up=0, timeout=END))
    assert found.failed == 2
    assert found.statuses == {"200": 98, "500": 1, "broken": 1}
    assert found.first_error == 'status 500: {"error": "as asked"}'


def test_a_hanging_server_times_out(serve: Serve) -> None:
    async def answer(server: Server) -> int:
        await asyncio.sleep(0.0 if len(server.requests) == 1 else 1000.0)
        return 200

    found = run(Plan(serve(answer).url, concurrency=2, duration=0.1, warm_up=0, timeout=4.0))
    assert found.statuses == {"timeout": 2}


def test_no_query_is_forgotten_that_waits_for_a_connection_and_then_for_an_answer(
    serve: Serve,
) -> None:
    """Those sent late have no time of their own after the end: they time out like the others."""

    async def answer(server: Server) -> int:
        # The first is asked alone; the second holds the only connection for most of the time.
        await asyncio.sleep({1: 0.0, 2: 2.4}.get(len(server.requests), 1000.0))
        return 200

    plan = Plan(
        serve(answer).url, rate=20, duration=0.5, warm_up=0, connections=1, arrivals="constant"
    )
    found = run(replace(plan, timeout=2.5))
    assert found.queries == 10


@pytest.mark.usefixtures("a_hundred")
def test_single_stream_keeps_one_query_in_flight(serve: Serve) -> None:
    server = serve(seconds=0.005)
    found = run(Plan(server.url, duration=END, warm_up=0, timeout=END))
    assert found.scenario == "single-stream" and server.most_in_flight == 1
    assert found.queries == 100 and found.bound_percentile == 0.9
    assert found.latency is not None and found.bound_seconds is not None
    assert found.latency.p90 <= found.bound_seconds <= found.latency.maximum
    assert found.latency.p50 >= 0.0045


def test_multi_stream_asks_eight_at_a_time_and_waits_for_the_last(serve: Serve) -> None:
    async def answer(server: Server) -> int:
        number = len(server.requests) - 1  # the first query is one request
        if number:
            last = 8 * -(-number // 8) + 1
            while len(server.requests) < last:  # the others of its query have to come
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.02 * (number % 8 == 0))
        return 200

    server = serve(answer)
    plan = Plan(server.url, scenario="multi-stream", duration=0.6, warm_up=0, timeout=END)
    found = run(plan)
    assert found.samples == 8 and server.most_in_flight == 8
    # One of eight is slow, and so is every query.
    assert found.latency is not None and found.latency.minimum >= 0.0195
    assert found.bound_seconds is None  # 662 queries would be needed


def test_offline_keeps_the_connections_busy(serve: Serve) -> None:
    async def answer(server: Server) -> int:
        while 1 < len(server.requests) < 17:  # until all have come at once
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        return 200

    server = serve(answer)
    plan = Plan(server.url, scenario="offline", concurrency=16, rows=4, duration=0.5, warm_up=0)
    found = run(replace(plan, timeout=END))
    assert server.most_in_flight == 16
    assert found.rows_per_second == pytest.approx(4 * found.throughput)
    assert found.throughput < 16 / 0.0095


def test_a_server_that_holds_the_slo_at_no_rate_is_told_so(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strop.loadtest.peak._CAPACITY_SECONDS", 0.3)
    monkeypatch.setattr("strop.loadtest.peak._RECOVERY_SECONDS", 0.0)
    slo = Slo(0.01, percentile=0.9)
    plan = Plan(serve(seconds=0.05).url, slo=slo, duration=0.3, warm_up=0, connections=8)
    found = run(replace(plan, timeout=END))
    assert found.scenario == "server" and found.rate == found.search[-1].rate
    assert found.verdict is not None and found.verdict.verdict == "missed"
    assert not any(trial.held for trial in found.search)
    assert len(found.search) < 12


def test_progress_is_told(serve: Serve) -> None:
    moments: list[Moment] = []

    async def answer(server: Server) -> int:
        # The last ones wait until it has been told that others were answered.
        while len(server.requests) > 100 and not any(it.answered > 50 for it in moments):
            await asyncio.sleep(0.001)
        return 200

    plan = Plan(serve(answer).url, rate=200, duration=1.0, warm_up=0, arrivals="constant")
    run(replace(plan, timeout=END), moments.append)
    assert 0 < moments[-1].done <= 1 and moments[-1].answered > 50
    assert moments[-1].phase == "measuring"


def test_the_record_survives_json(serve: Serve) -> None:
    plan = Plan(serve().url, rate=100, duration=0.5, warm_up=0, slo=Slo(1.0), timeout=END)
    found = run(plan)
    assert LoadTest.from_json(found.to_json()) == found
    assert found.to_dict()["schema"] == 1


def test_a_body_is_posted_as_it_is_to_any_server(serve: Serve, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_bytes(b'{"input": 4}')
    server = serve()
    plan = Plan(f"{server.url}/predict", body=body, concurrency=1, duration=0.2, warm_up=0)
    found = run(replace(plan, timeout=END))
    assert found.form == "body" and found.answered > 0
    url, _, received = server.requests[-1]
    assert url == "/predict" and json.loads(received) == {"input": 4}


def test_the_token_is_sent(serve: Serve) -> None:
    server = serve(token="secret")
    plan = Plan(server.url, concurrency=1, duration=0.1, warm_up=0, timeout=END)
    assert run(replace(plan, token="secret")).answered
    with pytest.raises(InputError, match="401"):
        run(plan)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Plan("nonsense://x"), "not the address"),
        (Plan("http://127.0.0.1:1"), "does not answer"),
        (Plan("http://h:1", rate=-1.0), "--rate"),
        (Plan("http://h:1", rate=1.0, scenario="offline"), "no meaning"),
        (Plan("http://h:1", concurrency=1, scenario="server"), "no meaning"),
        (Plan("http://h:1", scenario="server"), "--slo"),
    ],
)
def test_a_plan_that_cannot_be_run_is_bad_input(plan: Plan, words: str) -> None:
    with pytest.raises(InputError, match=words):
        run(plan)


def test_a_request_that_the_server_refuses_is_bad_input(serve: Serve) -> None:
    with pytest.raises(InputError, match="first query: status 400"):
        run(Plan(serve(status=400).url, concurrency=1, duration=0.2, timeout=END))


def test_two_ready_models_need_a_name(serve: Serve) -> None:
    server = serve(index=[{"name": "a", "state": "READY"}, {"name": "b", "state": "READY"}])
    with pytest.raises(InputError, match="--model"):
        run(Plan(server.url))
    with pytest.raises(InputError, match="404") as caught:
        run(Plan(server.url, model="other"))
    assert "--model" in str(caught.value.hint)
