"""The express lane answers what the ordinary way answers, to the byte, and knows when not to."""

from __future__ import annotations

import asyncio
import functools
import io
import json
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from strop.serve.batcher import Batcher
from strop.serve.codec import Limits
from strop.serve.core import Core
from strop.serve.errors import Unavailable
from strop.serve.express import Express
from strop.serve.http import Front
from strop.serve.logs import Log
from strop.serve.routes import Routes
from strop.serve.security import Guard

from .fakes import FAILS, WIDTH, Doubling, served, settle
from .serving import parse_responses, post
from .waiting import END

INFER = "/v2/models/fake/infer"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a busy machine takes a batch away for, it stays on the loop's thread."""
    monkeypatch.setattr("strop.serve.instance.INLINE_LIMIT", END)


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*arguments, **named), 2 * END))

    return run


class Wire:
    """The transport of a connection that no network is behind."""

    def __init__(self) -> None:
        self.sent = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.sent += bytes(data)

    def writelines(self, parts: list[bytes]) -> None:
        self.sent += b"".join(parts)

    def close(self) -> None:
        self.closed = True

    abort = close

    def write_eof(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> None:
        return None


class Client:
    """A connection, and what was said on it."""

    def __init__(self, front: Front) -> None:
        self.front = front
        self.wire = Wire()
        self.connection = front.connect()
        self.connection.connection_made(self.wire)  # type: ignore[arg-type]

    def send(self, data: bytes) -> None:
        assert self.connection.get_buffer(len(data)) is self.front.window
        self.front.buffer[: len(data)] = data
        self.connection.buffer_updated(len(data))

    async def answers(self, count: int) -> list[tuple[int, dict[str, str], bytes]]:
        end = time.monotonic() + END
        while self.wire.sent.count(b"HTTP/1.1 ") < count and time.monotonic() < end:
            await asyncio.sleep(0)
        return parse_responses(self.wire.sent)

    def leave(self) -> None:
        self.connection.connection_lost(None)


class Site:
    """One model behind two fronts, of which one never uses the lane."""

    def __init__(self, **chosen: Any) -> None:
        self.session = Doubling()
        self.model = served(self.session, **{"inline": True, **chosen})
        self.core = Core()
        self.batcher = Batcher(self.model, self.core.loop)
        repository: Any = self.core.repository
        repository.batcher = lambda name, version="": self.batcher
        repository.resolve = lambda request: self.batcher
        log = Log(io.StringIO())
        routes = Routes(self.core, Guard((), ()), Limits(), log, live=dict)
        self.front = Front(routes, Limits(), log)
        ordinary: Any = Routes(self.core, Guard((), ()), Limits(), log, live=dict)
        ordinary.lane = lambda match: None
        self.ordinary = Front(ordinary, Limits(), log)
        heads: Any = self.front.heads
        heads.refresh = lambda: None  # one date for all answers
        self.ordinary.heads = heads
        self.taken = 0
        if self.batcher.express is not None:
            self._count(self.batcher.express)

    @property
    def lane(self) -> Express:
        assert self.batcher.express is not None
        return self.batcher.express

    async def knowing(self, *bodies: bytes) -> None:
        """Let the front see heads and forms once: what is new always goes the ordinary way."""
        client = Client(self.front)
        for count, body in enumerate(bodies, 1):
            client.send(post(INFER, body))
            await client.answers(count)
        client.leave()

    async def close(self) -> None:
        self.front.close()
        self.ordinary.close()
        await settle(self.batcher)
        await self.core.drain(1.0)

    def _count(self, lane: Any) -> None:
        take = lane.take

        def counted(*arguments: Any) -> bool:
            took: bool = take(*arguments)
            self.taken += took
            return took

        lane.take = counted


def plain(*values: float, **more: object) -> bytes:
    data = list(values) if len(values) == WIDTH else [values[0]] * WIDTH
    entry = {"name": "x", "shape": [1, WIDTH], "datatype": "FP32", "data": data}
    return json.dumps({**more, "inputs": [entry]}).encode()


def first_of(answer: tuple[int, dict[str, str], bytes]) -> float:
    assert answer[0] == 200, answer
    return float(json.loads(answer[2])["outputs"][0]["data"][0])


# Bodies of every kind: like the plain ones, nearly like them, and broken ones.

SPACING = ((", ", ": "), (",", ":"), (" ,\n", " :\t"))

numbers = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, -0.0, 1e400, 3.5e38, True, False]),
)
oddities = st.one_of(st.none(), st.text(max_size=3), st.lists(numbers, max_size=2))
lists = st.one_of(
    st.lists(numbers, min_size=WIDTH, max_size=WIDTH),
    st.lists(st.one_of(numbers, oddities), max_size=WIDTH + 1),
    st.lists(numbers, min_size=WIDTH, max_size=WIDTH).map(lambda row: [row]),
    oddities,
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    entry: dict[str, object] = {
        "name": draw(st.sampled_from(["x", "x", "x", "y", ""])),
        "datatype": draw(st.sampled_from(["FP32", "FP32", "FP32", "INT32", "BYTES", "odd"])),
        "shape": draw(st.sampled_from([[1, WIDTH]] * 4 + [[WIDTH], [2, WIDTH], [1, -4], "no"])),
        "data": draw(lists),
    }
    document: dict[str, object] = {"inputs": [entry]}
    if draw(st.integers(0, 4)) == 0:
        more = draw(st.sampled_from(["id", "parameters", "outputs", "strange"]))
        document[more] = draw(
            st.sampled_from(["7", {}, {"priority": 1}, {"timeout": 10**9}, [{"name": "y"}], []])
        )
    text = json.dumps(document, separators=draw(st.sampled_from(SPACING))).encode()
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(text)))
        cut = draw(st.integers(0, 3))
        other = draw(st.sampled_from([b"", b"]", b",1", b'"', b"\xff"]))
        text = text[:at] + other + text[at + cut :]
    return text


@pytest.fixture(scope="module", autouse=True)
def _never_slow() -> Iterator[None]:
    """No call is so slow that it leaves the loop's thread, and with it the lane."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("strop.serve.instance.INLINE_LIMIT", 1000.0)
        yield


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with asyncio.Runner() as runner:
        yield runner.get_loop()


@pytest.fixture(scope="module")
def site(loop: asyncio.AbstractEventLoop) -> Iterator[Site]:
    async def make() -> Site:
        site = Site()
        entry = {"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "data": [0.5] * WIDTH}
        for spacing in SPACING:
            body = json.dumps({"inputs": [entry]}, separators=spacing).encode()
            await site.knowing(body, body)
        await site.knowing(plain(0.5), plain(0.5))
        assert len(site.lane._forms) == 4
        return site

    made = loop.run_until_complete(make())
    before = made.taken
    yield made
    assert made.taken > before
    assert made.front.in_flight == 0
    loop.run_until_complete(made.close())


async def asked(front: Front, requests: list[bytes]) -> list[bytes]:
    """What connections of their own are answered, with all requests in one round of the loop."""
    clients = [Client(front) for _ in requests]
    for client, request in zip(clients, requests, strict=True):
        client.send(request)
    for client in clients:
        await client.answers(1)
        client.leave()
    return [client.wire.sent for client in clients]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sent=st.lists(bodies(), min_size=1, max_size=4))
def test_every_body_is_answered_as_in_the_ordinary_way(
    site: Site, loop: asyncio.AbstractEventLoop, sent: list[bytes]
) -> None:
    requests = [post(INFER, body) for body in sent]

    async def compare() -> None:
        expected = await asked(site.ordinary, requests)
        for _ in range(2):  # the second time, heads and forms are known
            assert await asked(site.front, requests) == expected

    loop.run_until_complete(compare())


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.lists(numbers, min_size=WIDTH, max_size=WIDTH), min_size=1, max_size=40))
def test_rows_are_never_mixed_up(
    site: Site, loop: asyncio.AbstractEventLoop, rows: list[list[float]]
) -> None:
    requests = [post(INFER, plain(*row)) for row in rows]

    async def compare() -> None:
        await asked(site.front, requests)
        assert await asked(site.front, requests) == await asked(site.ordinary, requests)

    loop.run_until_complete(compare())


@on_a_loop
async def test_one_batch_for_one_round() -> None:
    site = Site()
    await site.knowing(plain(1.5), plain(1.5))
    site.session.batches.clear()
    answers = await asked(site.front, [post(INFER, plain(n + 0.5)) for n in range(8)])
    assert [first_of(parse_responses(it)[0]) for it in answers] == [2 * n + 1.0 for n in range(8)]
    assert site.session.batches == [8]
    assert site.taken >= 8
    await site.close()


@on_a_loop
async def test_no_batch_is_larger_than_the_limit() -> None:
    site = Site(max_batch=4)
    await site.knowing(plain(1.5), plain(1.5))
    site.session.batches.clear()
    answers = await asked(site.front, [post(INFER, plain(n + 0.5)) for n in range(9)])
    assert [first_of(parse_responses(it)[0]) for it in answers] == [2 * n + 1.0 for n in range(9)]
    assert sum(site.session.batches) == 9
    assert max(site.session.batches) <= 4
    await site.close()


@on_a_loop
async def test_an_ordinary_request_takes_those_in_the_lane_along() -> None:
    site = Site()
    await site.knowing(plain(1.5), plain(1.5))
    site.session.batches.clear()
    express, other = Client(site.front), Client(site.front)
    express.send(post(INFER, plain(2.5)))
    assert len(site.lane.waiting) == 1
    assert site.batcher.queued == 1
    other.send(post(INFER, plain(3.5, id="seven")))
    assert not site.lane.waiting
    assert site.batcher.queued == 2
    assert first_of((await express.answers(1))[0]) == 5.0
    assert first_of((await other.answers(1))[0]) == 7.0
    assert site.session.batches == [2]
    for client in (express, other):
        client.leave()
    assert site.front.in_flight == 0
    await site.close()


@on_a_loop
async def test_pipelined_requests_are_answered_in_order() -> None:
    site = Site()
    await site.knowing(plain(1.5), plain(1.5))
    client = Client(site.front)
    client.send(post(INFER, plain(2.5)))
    assert len(site.lane.waiting) == 1
    client.send(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n" + post(INFER, plain(3.5)))
    first, second, third = await client.answers(3)
    assert first_of(first) == 5.0
    assert json.loads(second[2]) == {"live": True}
    assert first_of(third) == 7.0
    client.leave()
    await site.close()


@on_a_loop
async def test_a_head_that_came_before_is_not_taken_from_what_is_left_in_the_buffer() -> None:
    site = Site()
    client = Client(site.front)
    large, small = (post(INFER, plain(it) + b" " * pad) for it, pad in ((2.5, 9000), (3.5, 1000)))
    for number, request in enumerate((large, small, large + small)):
        client.send(request)
        await client.answers(number + 1 + (number == 2))
    cut = len(large) + 20  # the rest of the second head is still in the buffer, from before
    client.send((large + small)[:cut])
    answers = await client.answers(5)
    assert [first_of(it) for it in answers] == [5.0, 7.0, 5.0, 7.0, 5.0]
    client.send(small[20:])
    assert first_of((await client.answers(6))[5]) == 7.0
    client.leave()
    await site.close()


@on_a_loop
async def test_who_has_gone_is_not_computed() -> None:
    site = Site()
    await site.knowing(plain(1.5), plain(1.5))
    site.session.order.clear()
    gone, there = Client(site.front), Client(site.front)
    gone.send(post(INFER, plain(2.5)))
    there.send(post(INFER, plain(3.5)))
    gone.leave()
    assert first_of((await there.answers(1))[0]) == 7.0
    assert site.session.order == [3.5]
    assert site.model.statistics.cancelled == 1
    assert not gone.wire.sent
    there.leave()
    assert site.front.in_flight == 0
    await site.close()


@on_a_loop
async def test_a_failing_row_fails_alone() -> None:
    site = Site()
    await site.knowing(plain(1.5), plain(FAILS))
    answers = await asked(site.front, [post(INFER, plain(it)) for it in (2.5, FAILS, 3.5)])
    (first,), (second,), (third,) = map(parse_responses, answers)
    assert (first_of(first), first_of(third)) == (5.0, 7.0)
    assert second[0] == 500
    assert b"secret" not in second[2]
    await site.close()


@on_a_loop
async def test_a_model_that_turned_slow_leaves_the_lane() -> None:
    site = Site()
    await site.knowing(plain(1.5), plain(1.5))
    early, late = Client(site.front), Client(site.front)
    early.send(post(INFER, plain(2.5)))
    assert len(site.lane.waiting) == 1
    site.model.inline = False
    late.send(post(INFER, plain(3.5)))
    assert not site.lane.waiting
    assert first_of((await early.answers(1))[0]) == 5.0
    assert first_of((await late.answers(1))[0]) == 7.0
    early.send(post(INFER, plain(4.5)))
    assert not site.lane.waiting
    assert first_of((await early.answers(2))[1]) == 9.0
    for client in (early, late):
        client.leave()
    await site.close()


@on_a_loop
async def test_a_full_queue_refuses() -> None:
    site = Site(max_queue=3)
    await site.knowing(plain(1.5), plain(1.5))
    answers = await asked(site.front, [post(INFER, plain(n + 0.5)) for n in range(5)])
    statuses = [parse_responses(it)[0][0] for it in answers]
    assert statuses == [200, 200, 200, 503, 503]
    await site.close()


@on_a_loop
async def test_draining_answers_what_was_taken_and_refuses_what_comes() -> None:
    site = Site()
    await site.knowing(plain(1.5), plain(1.5))
    before, after = Client(site.front), Client(site.front)
    before.send(post(INFER, plain(2.5)))
    drain = asyncio.ensure_future(site.batcher.drain())
    await asyncio.sleep(0)  # the drain begins behind the batch of this round
    after.send(post(INFER, plain(3.5)))
    assert first_of((await before.answers(1))[0]) == 5.0
    assert (await after.answers(1))[0][0] == 503
    await drain
    await site.close()


@pytest.mark.parametrize("what", ["server", "model"])
def test_a_batch_that_fails_while_draining_is_computed_again_all_the_same(what: str) -> None:
    @on_a_loop
    async def scenario() -> None:
        site = Site()
        await site.knowing(plain(1.5), plain(FAILS))
        clients = [Client(site.front) for _ in range(3)]
        for client, value in zip(clients, (2.5, FAILS, 3.5), strict=True):
            client.send(post(INFER, plain(value)))
        assert len(site.lane.waiting) == 3
        site.core.draining = what == "server"
        drain = asyncio.ensure_future(site.batcher.drain())
        answers = [(await client.answers(1))[0] for client in clients]
        assert [answer[0] for answer in answers] == [200, 500, 200]
        await drain
        for client in clients:
            client.leave()
        assert site.front.in_flight == 0
        await site.close()

    scenario()


@on_a_loop
async def test_abort_answers_what_waits() -> None:
    site = Site()
    await site.knowing(plain(1.5), plain(1.5))
    client = Client(site.front)
    client.send(post(INFER, plain(2.5)))
    site.batcher.abort(Unavailable("the server is stopping"))
    assert (await client.answers(1))[0][0] == 503
    assert not site.batcher.busy
    client.leave()
    assert site.front.in_flight == 0
    await site.close()


@on_a_loop
async def test_statistics_are_those_of_the_ordinary_way() -> None:
    counted = []
    for ordinary in (False, True):
        site = Site()
        front = site.ordinary if ordinary else site.front
        for _ in range(3):
            await asked(front, [post(INFER, plain(n + 0.5)) for n in range(4)])
        statistics = site.model.statistics
        whole = statistics.to_dict()
        counted.append(
            (
                whole["inference_count"],
                {key: value["count"] for key, value in whole["inference_stats"].items()},
                statistics.queue_seconds.count,
                statistics.total_seconds.count,
                statistics.batch_rows.sum,
            )
        )
        assert statistics.total_seconds.sum > statistics.queue_seconds.sum > 0
        assert (site.taken > 0) is not ordinary
        await site.close()
    assert counted[0] == counted[1]


@pytest.mark.parametrize(
    "chosen",
    [{"slo": 1.0}, {"cache_bytes": 1000}, {"policy": "fixed"}, {"inline": False}, {"max_batch": 1}],
)
@on_a_loop
async def test_models_that_need_more_have_no_lane(chosen: dict[str, Any]) -> None:
    site = Site(**chosen)
    assert site.batcher.express is None
    await site.close()


@on_a_loop
async def test_only_plain_bodies_are_learnt() -> None:
    site = Site()
    hidden = plain(1.5, other={"data": [1, 2, 3, 4]})  # another list of that name comes first
    for body in (plain(1.5, id="a"), plain(1.5, parameters={"priority": 1}), hidden):
        await site.knowing(body, body, body)
        assert site.taken == 0
    # What could not be learnt is looked at less and less often, and still in the end.
    await site.knowing(*[plain(1.5)] * 400)
    assert site.taken > 0
    await site.close()


@on_a_loop
async def test_heads_that_ask_for_more_do_not_take_the_lane() -> None:
    site = Site()
    for header in ("Accept-Encoding: gzip", "X-Request-Id: a", "Connection: close"):
        for _ in range(3):
            await asked(site.front, [post(INFER, plain(1.5), header)])
    assert site.taken == 0
    await site.close()


@on_a_loop
async def test_only_paths_of_inference_lead_to_the_lane() -> None:
    site = Site()
    router = site.front.router
    find = router.lane(router.match(INFER.encode()))
    assert find is not None
    assert find() is site.lane
    assert router.lane(router.match(b"/v2/models/fake")) is None
    await site.close()
