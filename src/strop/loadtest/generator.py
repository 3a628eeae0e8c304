"""The two ways of sending: at times of our own (open loop), or after each answer (closed loop)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from strop.loadtest.arrivals import Arrivals, intended_times
from strop.loadtest.client import Pool
from strop.loadtest.payload import Payloads
from strop.loadtest.slo import Slo
from strop.loadtest.tally import Tally
from strop.loadtest.target import Target

Say = Callable[["Moment"], None]

_TICK_SECONDS = 0.25
# The loop's timers are no finer than a millisecond: the last stretch to a query is spun away.
_SPIN_SECONDS = 0.002


@dataclass(frozen=True)
class Moment:
    """How a run stands right now; rates and latencies are those of the last tick or two.

    Attributes
    ----------
    done
        From 0 to 1.
    waiting
        Queries in flight, and those that are due but have no connection.
    """

    phase: str
    done: float
    answered_a_second: float
    p50: float
    p99: float
    waiting: int
    answered: int
    refused: int
    failed: int


@dataclass
class Traffic:
    """What is sent, where to, and over how many connections."""

    target: Target
    payloads: Payloads
    connections: int
    timeout: float
    say: Say
    first_error: str = field(default="", init=False)


async def open_loop(
    traffic: Traffic,
    rate: float,
    seconds: float,
    *,
    arrivals: Arrivals = "poisson",
    seed: int = 0,
    slo: Slo | None = None,
    give_up_over: int | None = None,
    phase: str = "measuring",
) -> Tally:
    """Send `rate` queries a second for `seconds`, whatever the server does; wait for the answers.

    Parameters
    ----------
    slo
        Says which queries are over the limit.
    give_up_over
        Stop early, without the answers that are still out, once more than so many are over.
    """
    tally = Tally(slo)
    pool = Pool(traffic.target, tally.add, timeout=traffic.timeout)
    await pool.open(traffic.connections)
    sent = 0
    try:
        async with _reporting(traffic, tally, pool, seconds, phase):
            requests = itertools.cycle(traffic.payloads.requests)
            start = time.perf_counter() + _SPIN_SECONDS
            for due in intended_times(rate, arrivals, seed):
                if due >= seconds or (give_up_over is not None and tally.over > give_up_over):
                    break
                intended = start + due
                while (ahead := intended - time.perf_counter()) > 0:
                    await asyncio.sleep(max(0.0, ahead - _SPIN_SECONDS))
                tally.late.append(-ahead)
                pool.submit(next(requests), intended)
                sent += 1
                if not sent % 64:  # behind the schedule: answers must be read all the same
                    await asyncio.sleep(0)
            if give_up_over is None or tally.over <= give_up_over:
                await _settle(lambda: len(tally) >= sent, traffic.timeout)
    finally:
        traffic.first_error = traffic.first_error or pool.first_error
        await pool.close()
    tally.start = start
    return tally


async def closed_loop(
    traffic: Traffic,
    concurrency: int,
    seconds: float,
    *,
    samples: int = 1,
    most: int | None = None,
    phase: str = "measuring",
) -> Tally:
    """Keep `concurrency` queries of `samples` requests in flight for `seconds`.

    A query's latency is that of its last request, and its status the worst of them.

    Parameters
    ----------
    most
        Stop after so many queries, too.
    """
    tally = Tally()
    requests = itertools.cycle(traffic.payloads.requests)
    end = float("inf")
    sent = 0
    open_queries: dict[float, list[int]] = {}

    def query() -> None:
        nonlocal sent
        now = time.perf_counter()
        if now >= end or (most is not None and sent >= most):
            return
        while now in open_queries:  # the time is the query's name
            now += 1e-9
        if samples > 1:
            open_queries[now] = []
        sent += 1
        for _ in range(samples):
            pool.submit(next(requests), now)

    def answered(intended: float, status: int) -> None:
        if samples > 1:
            statuses = open_queries[intended]
            statuses.append(status)
            if len(statuses) < samples:
                return
            del open_queries[intended]
            status = next((one for one in statuses if one != 200), 200)
        tally.add(intended, status)
        # Not from within the callback: the connection that answered is not free yet.
        loop.call_soon(query)

    loop = asyncio.get_running_loop()
    pool = Pool(traffic.target, answered, timeout=traffic.timeout)
    await pool.open(max(traffic.connections, concurrency * samples))
    try:
        async with _reporting(traffic, tally, pool, seconds, phase):
            start = time.perf_counter()
            for _ in range(concurrency):  # however short the time: these are sent
                query()
            end = start + seconds
            while time.perf_counter() < end and (most is None or len(tally) < most):
                await asyncio.sleep(min(0.05, max(0.0, end - time.perf_counter())))
            await _settle(lambda: len(tally) >= sent, traffic.timeout)
    finally:
        traffic.first_error = traffic.first_error or pool.first_error
        await pool.close()
    tally.start = start
    return tally


async def _settle(finished: Callable[[], bool], timeout: float) -> None:
    """Wait for the answers that are still out."""
    end = time.perf_counter() + timeout + 1.0
    while not finished() and time.perf_counter() < end:
        await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def _reporting(
    traffic: Traffic, tally: Tally, pool: Pool, seconds: float, phase: str
) -> AsyncIterator[None]:
    """Says how the run stands, a few times a second."""
    task = asyncio.create_task(_report(traffic, tally, pool, seconds, phase))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _report(traffic: Traffic, tally: Tally, pool: Pool, seconds: float, phase: str) -> None:
    start = before = time.perf_counter()
    seen = answered = refused = 0
    while True:
        await asyncio.sleep(_TICK_SECONDS)
        now, count = time.perf_counter(), len(tally)
        latest = sorted(tally.latencies(since=seen).tolist())
        answered += len(latest)
        refused += len(tally.latencies(since=seen, refused=True))
        traffic.say(
            Moment(
                phase=phase,
                done=min(1.0, (now - start) / seconds),
                answered_a_second=len(latest) / (now - before),
                p50=latest[len(latest) // 2] if latest else 0.0,
                p99=latest[len(latest) * 99 // 100] if latest else 0.0,
                waiting=pool.in_flight + len(pool.waiting),
                answered=answered,
                refused=refused,
                failed=count - answered - refused,
            )
        )
        before, seen = now, count
