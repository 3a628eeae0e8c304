"""Refusals by the head alone say what the ordinary way says, and only when it would say it."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from strop.serve.admission import Admission
from strop.serve.batcher import Batcher
from strop.serve.codec import Limits
from strop.serve.core import Core
from strop.serve.curve import LatencyCurve
from strop.serve.errors import Unavailable
from strop.serve.gate import Gate
from strop.serve.http import Front
from strop.serve.logs import AccessLog, Log
from strop.serve.lull import SECONDS, Lull
from strop.serve.request import InferRequest
from strop.serve.routes import Routes
from strop.serve.security import Guard

from .fakes import WIDTH, Doubling, served, settle
from .serving import parse_responses, post
from .test_express import INFER, Client, first_of, on_a_loop, plain
from .waiting import END

BATCH_SECONDS = 1000.0  # that a batch takes, for all the batcher knows
TOKEN = "a-token-for-tests"


class Clock:
    """Stands where `time` does: what was refused once is refused alike a moment later."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (
        "answers",
        "batcher",
        "connection",
        "exchange",
        "incoming",
        "instance",
        "lull",
    ):
        monkeypatch.setattr(f"strop.serve.{module}.time", clock)
    return clock


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The answers that gates gave."""
    found: list[bytes] = []
    refuse = Gate.refuse

    def counted(self: Gate, *arguments: Any) -> bytes | None:
        answer = refuse(self, *arguments)
        if answer is not None:
            found.append(answer)
        return answer

    monkeypatch.setattr(Gate, "refuse", counted)
    return found


class Site:
    """A model whose only worker computes for as long as the test likes, behind two fronts.

    The second of them has no gates.
    """

    def __init__(self, *, tokens: tuple[str, ...] = (), **chosen: Any) -> None:
        self.session = Doubling()
        self.model = served(
            self.session, **{"slo": 1.0, "max_batch": 1, "hang_seconds": 1e6, **chosen}
        )
        for size in self.model.curve.sizes:
            self.model.curve.observe(size, BATCH_SECONDS)
        self.core = Core()
        self.batcher = Batcher(self.model, self.core.loop)
        repository: Any = self.core.repository
        repository.batcher = lambda name, version="": self.batcher
        repository.resolve = lambda request: self.batcher
        log = Log(io.StringIO())
        guard = Guard(tokens, ())
        self.front = Front(Routes(self.core, guard, Limits(), log, live=dict), Limits(), log)
        ordinary: Any = Routes(self.core, guard, Limits(), log, live=dict)
        ordinary.gate = lambda match: None
        self.ordinary = Front(ordinary, Limits(), log)
        heads: Any = self.front.heads
        heads.refresh = lambda: None  # one date for all answers
        self.ordinary.heads = heads
        self.first: Client | None = None

    async def busy(self, request: bytes) -> None:
        """Let the worker compute, and let both fronts see the head of `request` refused."""
        self.session.gate.clear()
        self.first = Client(self.front)
        self.first.send(request)
        await asyncio.sleep(0)  # what was taken in this round is given to the worker
        assert self.batcher.running_rows == 1
        for front in (self.front, self.ordinary):
            assert said(front, request)[0] == 503
        assert self.batcher.refusing_until > Clock.now

    async def close(self) -> None:
        self.session.gate.set()
        if self.first is not None:
            assert (await self.first.answers(1))[0][0] == 200
            self.first.leave()
        assert self.front.in_flight == 0
        for front in (self.front, self.ordinary):
            front.close()
        await settle(self.batcher)
        await self.core.drain(1.0)


def said(front: Front, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """What is answered within this very call."""
    client = Client(front)
    client.send(request)
    (answer,) = parse_responses(client.wire.sent)
    client.leave()
    return answer


def binary(value: float, **parameters: object) -> bytes:
    data = np.full((1, WIDTH), value, np.float32).tobytes()
    entry = {
        "name": "x",
        "shape": [1, WIDTH],
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(data)},
    }
    text = json.dumps({"inputs": [entry], "parameters": parameters}).encode()
    return post(INFER, text + data, f"Inference-Header-Content-Length: {len(text)}")


def raw(value: float) -> bytes:
    data = np.full((1, WIDTH), value, np.float32).tobytes()
    return post(INFER, data, "Inference-Header-Content-Length: 0")


REQUESTS = {
    "json": post(INFER, plain(2.5)),
    "binary": binary(2.5, binary_data_output=True),
    "raw": raw(2.5),
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_a_refusal_is_the_same_bytes_as_in_the_ordinary_way(
    clock: Clock, gated: list[bytes], request_: bytes
) -> None:
    @on_a_loop
    async def scenario() -> None:
        site = Site()
        await site.busy(request_)
        assert not gated
        refused = site.model.statistics.refused["overload"]
        expected = said(site.ordinary, request_)
        assert not gated
        answer = said(site.front, request_)
        assert len(gated) == 1
        assert answer == expected
        assert answer[0] == 503
        assert int(answer[1]["retry-after-ms"]) > 1
        assert site.model.statistics.refused["overload"] == refused + 2
        await site.close()

    scenario()


PARTICULAR = {
    "priority": binary(2.5, priority=1),
    "timeout": binary(2.5, timeout=10**9),
    "escape": post(INFER, plain(2.5).replace(b'"data"', b'"\\u0064ata"')),
    "priority in JSON": post(INFER, plain(2.5, parameters={"priority": 9})),
}


@pytest.mark.parametrize("request_", PARTICULAR.values(), ids=PARTICULAR)
def test_what_could_make_a_difference_goes_the_ordinary_way(
    clock: Clock, gated: list[bytes], request_: bytes
) -> None:
    @on_a_loop
    async def scenario() -> None:
        site = Site()
        await site.busy(REQUESTS["json"])
        said(site.front, request_)
        assert request_.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" in site.front.known
        assert said(site.front, request_) == said(site.ordinary, request_)
        assert not gated
        await site.close()

    scenario()


def test_every_answer_is_its_own_though_gates_remember_the_last(
    clock: Clock, gated: list[bytes]
) -> None:
    """The time to wait shrinks, and a particular body may follow or repeat a plain one."""

    @on_a_loop
    async def scenario() -> None:
        site = Site()
        plain_ones = [REQUESTS["json"], REQUESTS["binary"], post(INFER, plain(25.5))]
        await site.busy(REQUESTS["json"])
        for request in (*plain_ones, *PARTICULAR.values()):
            said(site.front, request)  # so that its head is known
        gated.clear()
        waits = set()
        for _ in range(3):
            for request in plain_ones:
                for other in (request, *PARTICULAR.values(), request):
                    answer = said(site.front, other)
                    assert answer == said(site.ordinary, other)
                waits.add(answer[1]["retry-after-ms"])
            clock.now += 0.5
        assert len(gated) == 3 * 2 * len(plain_ones)
        assert len(waits) == 3
        await site.close()

    scenario()


def test_the_urgent_are_let_in_while_others_are_turned_away(
    clock: Clock, gated: list[bytes]
) -> None:
    @on_a_loop
    async def scenario() -> None:
        site = Site(slo=4.5 * BATCH_SECONDS)
        site.session.gate.clear()
        ahead = [Client(site.front) for _ in range(4)]
        for client in ahead:  # one is computed, one is next, two wait
            client.send(REQUESTS["binary"])
            await asyncio.sleep(0)
        assert said(site.front, REQUESTS["binary"])[0] == 503
        assert said(site.front, REQUESTS["binary"])[0] == 503
        assert len(gated) == 1
        urgent = Client(site.front)
        urgent.send(binary(4.5, priority=1))
        assert not urgent.wire.sent
        site.session.gate.set()
        for client in (*ahead, urgent):
            assert (await client.answers(1))[0][0] == 200
            client.leave()
        await site.close()

    scenario()


def test_what_the_cache_holds_is_answered_however_busy_the_model_is(
    clock: Clock, gated: list[bytes]
) -> None:
    @on_a_loop
    async def scenario() -> None:
        site = Site(cache_bytes=1 << 20)
        client = Client(site.front)
        client.send(REQUESTS["json"])
        assert first_of((await client.answers(1))[0]) == 5.0
        client.leave()
        for _ in range(40):  # that it was fast this time is forgotten
            site.model.curve.observe(1, BATCH_SECONDS)
        site.session.gate.clear()
        site.first = Client(site.front)
        site.first.send(post(INFER, plain(3.5)))
        await asyncio.sleep(0)
        assert said(site.front, post(INFER, plain(4.5)))[0] == 503
        assert said(site.front, post(INFER, plain(4.5)))[0] == 503
        assert first_of(said(site.front, REQUESTS["json"])) == 5.0
        assert not gated
        await site.close()

    scenario()


@pytest.mark.parametrize("what", ["front", "core"])
def test_a_server_that_stops_says_so(clock: Clock, gated: list[bytes], what: str) -> None:
    @on_a_loop
    async def scenario() -> None:
        site = Site()
        await site.busy(REQUESTS["json"])
        getattr(site, what).draining = True
        status, headers, body = said(site.front, REQUESTS["json"])
        assert status == 503
        assert not gated
        if what == "core":
            assert b"stopping" in body
        else:
            assert headers["connection"] == "close"
        site.core.draining = False
        await site.close()

    scenario()


def test_without_the_token_nobody_learns_that_the_model_is_busy(
    clock: Clock, gated: list[bytes]
) -> None:
    """Heads with a token are never remembered, and without one they are never let in."""

    @on_a_loop
    async def scenario() -> None:
        site = Site(tokens=(TOKEN,))
        body = plain(2.5)
        right = post(INFER, body, f"Authorization: Bearer {TOKEN}")
        await site.busy(right)
        for _ in range(2):
            assert said(site.front, right)[0] == 503
            for wrong in (
                post(INFER, body),
                post(INFER, body, "Authorization: Bearer another-one"),
                post(INFER, body, f"X-Authorization: Bearer {TOKEN}"),
                post(INFER, body, f"Authorization: Bearer {TOKEN}", "Authorization: Bearer x"),
            ):
                assert said(site.front, wrong)[0] in (400, 401)
        assert not gated
        assert not site.front.known
        await site.close()

    scenario()


def test_every_refusal_is_in_the_access_log(clock: Clock, gated: list[bytes]) -> None:
    """Requests that are logged have ids, and heads of those that have one are not remembered."""

    @on_a_loop
    async def scenario() -> None:
        site = Site()
        written = io.StringIO()
        site.front.access_log = AccessLog(Log(written))
        await site.busy(REQUESTS["json"])
        for _ in range(3):
            status, headers, _ = said(site.front, REQUESTS["json"])
            assert status == 503
            assert headers["x-request-id"]
        assert not gated
        site.front.access_log.close()
        lines = [json.loads(line) for line in written.getvalue().splitlines()]
        assert [line["status"] for line in lines] == [503] * 4
        assert len({line["request"] for line in lines}) == 4
        site.front.access_log = None
        await site.close()

    scenario()


def test_a_request_behind_one_that_waits_is_answered_after_it(
    clock: Clock, gated: list[bytes]
) -> None:
    @on_a_loop
    async def scenario() -> None:
        site = Site()
        await site.busy(REQUESTS["json"])
        assert site.first is not None
        site.first.send(REQUESTS["json"])
        assert not site.first.wire.sent
        assert not gated
        site.session.gate.set()
        statuses = [answer[0] for answer in await site.first.answers(2)]
        assert statuses == [200, 503]
        await site.close()

    scenario()


def test_refusals_that_came_at_once_are_all_given(clock: Clock, gated: list[bytes]) -> None:
    @on_a_loop
    async def scenario() -> None:
        site = Site()
        await site.busy(REQUESTS["binary"])
        client = Client(site.front)
        half = len(REQUESTS["binary"]) // 2
        client.send(5 * REQUESTS["binary"] + REQUESTS["binary"][:half])
        assert len(parse_responses(client.wire.sent)) == len(gated) == 5
        # The body of the sixth is still on its way: it is read to its end, into its own buffer.
        rest = REQUESTS["binary"][half:]
        window = client.connection.get_buffer(len(rest))
        if window is site.front.window:
            client.send(rest)
        else:
            window[: len(rest)] = rest
            client.connection.buffer_updated(len(rest))
        assert [it[0] for it in parse_responses(client.wire.sent)] == [503] * 6
        client.leave()
        await site.close()

    scenario()


def _cancelled(site: Site) -> None:
    for batch in site.batcher._pool.batches:
        site.batcher.cancel(batch.tickets[0])


CHANGES: dict[str, Callable[[Site], Any]] = {
    "cancelled": _cancelled,
    "looked after": lambda site: site.batcher._tick(),
    "unloading": lambda site: asyncio.ensure_future(site.batcher.drain()),
    "aborted": lambda site: site.batcher.abort(Unavailable("the server is stopping")),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_could_let_one_in_opens_the_gate(
    clock: Clock, gated: list[bytes], change: Callable[[Site], Any]
) -> None:
    @on_a_loop
    async def scenario() -> None:
        site = Site()
        await site.busy(REQUESTS["json"])
        change(site)
        await asyncio.sleep(0)
        assert site.batcher.refusing_until == -np.inf
        assert said(site.front, REQUESTS["json"])[0] == 503  # still, but it was asked
        assert not gated
        site.session.gate.set()
        if site.first is not None:
            site.first.leave()
            site.first = None
        await site.close()

    scenario()


def test_the_end_of_a_batch_opens_the_gate(clock: Clock, gated: list[bytes]) -> None:
    @on_a_loop
    async def scenario() -> None:
        site = Site()
        await site.busy(REQUESTS["json"])
        site.session.gate.set()
        assert site.first is not None
        assert (await site.first.answers(1))[0][0] == 200
        assert site.batcher.refusing_until == -np.inf
        client = Client(site.front)
        client.send(REQUESTS["json"])
        assert (await client.answers(1))[0][0] == 200
        assert not gated
        client.leave()
        await site.close()

    scenario()


def test_a_batch_that_begins_opens_the_gate(clock: Clock) -> None:
    @on_a_loop
    async def scenario() -> None:
        site = Site(slo=2.5 * BATCH_SECONDS, max_batch=2)
        site.session.gate.clear()
        x = np.zeros((2, WIDTH), np.float32)
        for _ in range(2):  # the worker has room for the batch after the one that it computes
            site.batcher.submit(InferRequest("fake", {"x": x}), lambda result: None)
            site.batcher.refusing_until = clock.now + 1.0
            await asyncio.sleep(0)
            assert site.batcher.refusing_until == -np.inf
        await site.close()

    scenario()


def test_time_opens_the_gate(clock: Clock, gated: list[bytes]) -> None:
    @on_a_loop
    async def scenario() -> None:
        site = Site()
        await site.busy(REQUESTS["json"])
        assert said(site.front, REQUESTS["json"])[0] == 503
        assert len(gated) == 1
        clock.now = site.batcher.refusing_until
        assert said(site.front, REQUESTS["json"])[0] == 503
        assert len(gated) == 1
        await site.close()

    scenario()


@pytest.mark.parametrize("gap", [0.0, 0.5])
def test_the_loop_rests_between_bursts_of_refusals_alone(
    clock: Clock, gated: list[bytes], monkeypatch: pytest.MonkeyPatch, gap: float
) -> None:
    rests: list[float] = []
    monkeypatch.setattr("strop.serve.lull.rest", rests.append)

    @on_a_loop
    async def scenario() -> None:
        site = Site()
        await site.busy(REQUESTS["json"])
        for _ in range(4):
            assert said(site.front, REQUESTS["json"])[0] == 503
            clock.now += gap
        await asyncio.sleep(0)
        assert len(gated) == 4
        assert rests == ([SECONDS] if gap == 0.0 else [])
        await site.close()

    scenario()


@on_a_loop
async def test_the_loop_rests_once_however_many_heads_are_refused(
    clock: Clock,
    gated: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Clients differ in their heads: a rest for each would hold up all the others."""
    rests: list[float] = []
    monkeypatch.setattr("strop.serve.lull.rest", rests.append)
    site = Site()
    await site.busy(REQUESTS["json"])
    heads = [REQUESTS["json"].replace(b"Host: test", b"Host: %d" % n) for n in range(8)]
    for request in (*heads, *heads, *heads):
        assert said(site.front, request)[0] == 503
    await asyncio.sleep(0)
    assert len(gated) == 2 * len(heads)
    assert len(rests) == 1
    await site.close()


@on_a_loop
async def test_a_rest_is_a_small_part_of_the_objective(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    monkeypatch.setattr("strop.serve.lull.rest", rests.append)
    lull = Lull()
    for slo in (0.01, 1.0):
        lull.begin(Admission(LatencyCurve(1), workers=1, slo=slo), clock.now)
        await asyncio.sleep(0)
    assert rests == [pytest.approx(0.0005), SECONDS]


def test_a_rest_ends_with_the_batch() -> None:
    """And not after the seconds that it may take at most."""
    from strop.serve.instance import rest

    @on_a_loop
    async def scenario() -> None:
        site = Site()
        done: list[Any] = []
        x = np.zeros((1, WIDTH), np.float32)
        site.batcher.submit(InferRequest("fake", {"x": x}), done.append)
        await asyncio.sleep(0)
        rest(2 * END)  # the loop stands still, so only the worker can end this
        await site.batcher.drain()
        assert len(done) == 1
        await site.close()

    scenario()
