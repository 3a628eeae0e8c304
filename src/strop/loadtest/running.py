"""One load test from its options to its record."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from strop.errors import InputError, MissingExtra, StropError
from strop.loadtest.arrivals import Arrivals
from strop.loadtest.client import BROKEN, TIMED_OUT
from strop.loadtest.earlystop import estimate_rank
from strop.loadtest.generator import Moment, Say, Traffic, closed_loop, open_loop
from strop.loadtest.payload import Format, Payloads, from_body, from_model
from strop.loadtest.peak import find_peak
from strop.loadtest.record import LoadTest, RateTrial, Scenario
from strop.loadtest.slo import REFUSALS, Slo
from strop.loadtest.tally import Tally, histogram, percentiles
from strop.loadtest.target import Target, describe_model, parse_target

T = TypeVar("T")

MULTI_STREAM_SAMPLES = 8


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes
    ----------
    scenario
        None leaves the choice to what else is given: ``server`` with a rate or an SLO, ``closed``
        with a concurrency, otherwise ``single-stream``.
    rate
        Queries a second; None in the server scenario looks for the highest that holds the SLO.
    concurrency
        Queries in flight in the closed and offline scenarios.
    duration, warm_up
        Seconds; the server scenario without a rate measures each rate it tries, and the one it
        settles on, for `duration`.
    connections
        Most requests in flight in the server scenario.
    data, shapes, rows
        See :func:`strop.loadtest.payload.from_model`.
    body
        A file that is posted as it is to the URL, whatever the protocol.
    timeout
        Seconds after which a query has failed.
    """

    url: str
    model: str = ""
    scenario: Scenario | None = None
    rate: float | None = None
    arrivals: Arrivals = "poisson"
    concurrency: int | None = None
    duration: float = 10.0
    warm_up: float = 1.0
    slo: Slo | None = None
    connections: int = 128
    rows: int = 1
    form: Format = "binary"
    data: Path | None = None
    shapes: dict[str, list[int | str]] | None = None
    body: Path | None = None
    token: str | None = None
    ca: Path | None = None
    timeout: float = 10.0
    seed: int = 0

    def check(self) -> Plan:
        """The plan with its scenario settled; InputError when it contradicts itself."""
        for name, value in (
            ("--rate", self.rate),
            ("--concurrency", self.concurrency),
            ("--duration", self.duration),
            ("--connections", self.connections),
            ("--batch", self.rows),
            ("--timeout", self.timeout),
        ):
            if value is not None and not value > 0:
                raise InputError(f"{name} {value} is not above 0")
        scenario = self.scenario
        if scenario is None:
            if self.rate is not None:
                scenario = "server"
            elif self.concurrency is not None:
                scenario = "closed"
            else:
                scenario = "single-stream" if self.slo is None else "server"
        if self.rate is not None and scenario != "server":
            raise InputError(f"--rate has no meaning in the {scenario} scenario")
        if self.concurrency is not None and scenario not in ("closed", "offline"):
            raise InputError(
                f"--concurrency has no meaning in the {scenario} scenario",
                hint="leave it out, or pass --scenario closed",
            )
        if scenario == "server" and self.rate is None and self.slo is None:
            raise InputError(
                "without a rate, the server scenario looks for the highest that holds an SLO",
                hint="pass --slo 20ms, or --rate",
            )
        return replace(self, scenario=scenario)


def run(plan: Plan, say: Say = lambda moment: None) -> LoadTest:
    """Put the load on, and report what happened.

    Raises
    ------
    InputError
        When the plan contradicts itself, or the server cannot be reached or refuses the request.
    StropError
        When no query was answered.
    """
    plan = plan.check()
    target = parse_target(plan.url, model=plan.model, token=plan.token, ca=plan.ca)
    if plan.body is not None:
        try:
            payloads = from_body(target, plan.body.read_bytes(), plan.body.name)
        except OSError as error:
            raise InputError(f"{plan.body.name} cannot be read: {error.strerror}") from error
    else:
        target, inputs = describe_model(target)
        payloads = from_model(
            target,
            inputs,
            data=plan.data,
            rows=plan.rows,
            shapes=plan.shapes,
            form=plan.form,
            seed=plan.seed,
        )
    traffic = Traffic(target, payloads, _connections(plan), plan.timeout, say)
    with _undisturbed():
        return _in_loop(_measure(plan, target, payloads, traffic))


def _connections(plan: Plan) -> int:
    if plan.scenario == "single-stream":
        return 1
    if plan.scenario == "multi-stream":
        return MULTI_STREAM_SAMPLES
    if plan.scenario in ("closed", "offline") and plan.concurrency is not None:
        return plan.concurrency
    return plan.connections


async def _measure(plan: Plan, target: Target, payloads: Payloads, traffic: Traffic) -> LoadTest:
    await _warm_up(plan, traffic)
    search: tuple[RateTrial, ...] = ()
    rate, samples, concurrency = plan.rate, 1, None
    if plan.scenario == "server":
        if rate is None:
            assert plan.slo is not None
            rate, tally, search = await find_peak(
                traffic, plan.slo, plan.duration, arrivals=plan.arrivals, seed=plan.seed
            )
        else:
            tally = await open_loop(
                traffic, rate, plan.duration, arrivals=plan.arrivals, seed=plan.seed, slo=plan.slo
            )
    else:
        concurrency = 1 if plan.scenario.endswith("stream") else traffic.connections  # type: ignore[union-attr]
        samples = MULTI_STREAM_SAMPLES if plan.scenario == "multi-stream" else 1
        tally = await closed_loop(traffic, concurrency, plan.duration, samples=samples)
    return _record(plan, target, payloads, traffic, tally, rate, concurrency, samples, search)


async def _warm_up(plan: Plan, traffic: Traffic) -> None:
    """Load the path once before it counts, and stop here when the request itself is wrong."""
    first = await closed_loop(traffic, 1, plan.timeout, most=1, phase="first query")
    status = first.status[0] if len(first) else BROKEN
    if status != 200 and status not in REFUSALS:
        raise InputError(
            f"{traffic.target.url} does not answer the first query: "
            f"{traffic.first_error or f'status {status}'}",
            hint="check the model, the data and the token",
        )
    if plan.warm_up > 0:
        await closed_loop(traffic, min(traffic.connections, 8), plan.warm_up, phase="warming up")
    traffic.first_error = ""


def _record(
    plan: Plan,
    target: Target,
    payloads: Payloads,
    traffic: Traffic,
    tally: Tally,
    rate: float | None,
    concurrency: int | None,
    samples: int,
    search: tuple[RateTrial, ...],
) -> LoadTest:
    from strop.measure import describe

    assert plan.scenario is not None
    latencies, refusals = tally.latencies(), tally.latencies(refused=True)
    if not len(tally):
        raise StropError("no query came to an end", hint="give it longer: --duration")
    seconds = max(tally.last - tally.start, 1e-9)
    rank, part = None, None
    if plan.scenario in ("single-stream", "multi-stream"):
        part = 0.9 if plan.scenario == "single-stream" else 0.99
        rank = estimate_rank(len(latencies), part)
    lateness = percentiles(_array(tally.late))
    latency = percentiles(latencies)
    verdict = tally.judge(plan.slo) if plan.slo is not None else None
    return LoadTest(
        url=target.url,
        model=f"{target.model}/{target.version}" if target.version else target.model,
        scenario=plan.scenario,
        form="body" if plan.body is not None else plan.form,
        payload=payloads.origin,
        rows=payloads.rows,
        samples=samples,
        rate=rate,
        arrivals=plan.arrivals if plan.scenario == "server" else None,
        concurrency=concurrency,
        connections=max(traffic.connections, (concurrency or 0) * samples),
        seed=plan.seed,
        seconds=seconds,
        queries=len(tally),
        answered=len(latencies),
        refused=len(refusals),
        failed=len(tally) - len(latencies) - len(refusals),
        throughput=len(latencies) / seconds,
        rows_per_second=len(latencies) * payloads.rows * samples / seconds,
        latency=latency,
        refusal=percentiles(refusals),
        lateness=lateness,
        histogram=histogram(latencies),
        bound_percentile=part if rank is not None else None,
        bound_seconds=float(sorted(latencies)[-rank]) if rank is not None else None,
        statuses={_STATUS_NAMES.get(one, str(one)): n for one, n in tally.statuses.items()},
        first_error=traffic.first_error,
        verdict=verdict,
        search=search,
        notes=tuple(_notes(plan, tally, latency, lateness, verdict is not None)),
        machine=describe(),
    )


_STATUS_NAMES = {BROKEN: "broken", TIMED_OUT: "timeout"}


def _array(values: Any) -> Any:
    import numpy as np

    return np.array(values)


def _notes(plan: Plan, tally: Tally, latency: Any, lateness: Any, judged: bool) -> Iterator[str]:
    if lateness is not None:
        against = plan.slo.seconds if plan.slo else latency.p99 if latency else 0.0
        if lateness.p99 > max(0.1 * against, 5e-4):
            yield (
                f"the generator itself was up to {1e3 * lateness.p99:.2g} ms late for 99% of the "
                "queries: it needs a faster core of its own, or a lower rate"
            )
    if plan.scenario == "closed" and judged:
        yield (
            "a closed loop waits for the server before it asks again, and so hides queueing: "
            "use --rate for an SLO"
        )


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """No garbage collection of ours in the middle of somebody's latency."""
    was = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was:
            gc.enable()


def _in_loop(work: Coroutine[Any, Any, T]) -> T:
    try:
        import httptools  # noqa: F401
        import uvloop
    except ImportError as error:
        work.close()
        raise MissingExtra(error.name or "uvloop", extra="serve") from error
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


__all__ = ["Moment", "Plan", "run"]
