from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from strop.serve.batcher import Batcher
from strop.serve.cache import ResponseCache
from strop.serve.request import InferRequest

from .fakes import FAILS, Asked, Doubling, served, settle
from .test_batcher import run
from .waiting import until


def request(
    x: np.ndarray, outputs: tuple[str, ...] | None = None, **more: np.ndarray
) -> InferRequest:
    return InferRequest("m", {"x": x, **more}, outputs=outputs)


def test_keys_differ_with_everything_that_matters_and_nothing_else() -> None:
    x = np.arange(6, dtype=np.float32)
    key = ResponseCache.key
    distinct = [
        request(x),
        request(x.reshape(2, 3)),
        request(x.reshape(3, 2)),
        request(x.view(np.int32)),
        request(x + 1),
        request(x, ("y",)),
        request(x, ("y", "z")),
        request(x, ()),
        request(x, more=x),
        request(np.array([b"ab", b"c"], object)),
        request(np.array([b"a", b"bc"], object)),
        request(np.array(["a", "bcd"], object)),
    ]
    assert len({key(it) for it in distinct}) == len(distinct)
    same = InferRequest("m", {"x": np.arange(12, dtype=np.float32)[:6]}, id="7", deadline=1.0)
    assert key(same) == key(request(x))
    assert key(request(x.reshape(2, 3).T)) == key(request(x.reshape(2, 3).T.copy()))


def test_bytes_are_bounded_and_the_least_recently_used_goes() -> None:
    cache = ResponseCache(limit=4 * (512 + 80))
    for name in b"abcd":
        cache.put(bytes([name]), {"y": np.zeros(10)})
    assert cache.get(b"a") is not None
    cache.put(b"e", {"y": np.zeros(10)})
    assert cache.get(b"b") is None
    assert len(cache) == 4
    assert cache.bytes <= cache.limit
    cache.put(b"huge", {"y": np.zeros(1000)})
    assert cache.get(b"huge") is None
    cache.put(b"a", {"y": np.zeros(5)})
    assert cache.bytes == 4 * (512 + 80) - 40


def test_kept_outputs_are_copies_that_nobody_writes() -> None:
    cache = ResponseCache(limit=10_000)
    batch = np.zeros((100, 4))
    cache.put(b"k", {"y": batch[3:4]})
    batch[:] = 9
    kept = cache.get(b"k")
    assert kept is not None
    assert kept["y"].base is None
    assert not kept["y"].any()
    with pytest.raises(ValueError, match="read-only"):
        kept["y"][0, 0] = 1.0


def caching(session: Doubling, **settings) -> Batcher:  # type: ignore[no-untyped-def]
    return Batcher(served(session, cache_bytes=100_000, **settings), asyncio.get_running_loop())


def test_equal_requests_in_flight_are_computed_once_and_then_kept() -> None:
    async def scenario() -> None:
        session = Doubling()
        batcher = caching(session)
        ask = Asked(batcher)
        for value in (1.0, 2.0, 1.0, 1.0):
            ask(value)
        await ask.all()
        assert ask.values() == [2.0, 4.0, 2.0, 2.0]
        assert sorted(session.order) == [1.0, 2.0]
        ask(2.0)
        assert ask.values()[-1] == 4.0  # within the call
        assert ask.answers[-1].id == "4"  # type: ignore[union-attr]
        statistics = batcher.model.statistics
        assert (statistics.cache_hits, statistics.cache_misses, statistics.cache_shared) == (
            1,
            2,
            2,
        )
        assert statistics.success.count == 5
        assert statistics.inferences == 2
        await settle(batcher)

    run(scenario())


def test_a_failure_is_shared_but_not_kept() -> None:
    async def scenario() -> None:
        session = Doubling()
        batcher = caching(session)
        ask = Asked(batcher)
        for value in (FAILS, FAILS):
            ask(value)
        await ask.all()
        assert ask.values() == ["model", "model"]
        computed = len(session.batches)
        ask(FAILS)
        await ask.all()
        assert len(session.batches) > computed
        await settle(batcher)

    run(scenario())


def test_cancelling_the_first_leaves_the_others_their_answer() -> None:
    async def scenario() -> None:
        session = Doubling()
        batcher = caching(session)
        ask = Asked(batcher)
        for _ in range(4):
            ask(1.0)
        ask.tickets[0].cancel()
        ask.tickets[2].cancel()
        await ask.all()
        assert ask.values() == [None, 2.0, None, 2.0]
        await settle(batcher)

    run(scenario())


def test_cancelling_the_only_one_lets_the_next_be_computed() -> None:
    async def scenario() -> None:
        session = Doubling()
        batcher = caching(session)
        ask = Asked(batcher)
        ask(1.0).cancel()
        ask(1.0)
        await ask.all()
        assert ask.values() == [None, 2.0]
        await settle(batcher)

    run(scenario())


def test_the_timeout_of_the_first_is_not_the_others() -> None:
    async def scenario() -> None:
        session = Doubling()
        session.gate.clear()
        batcher = caching(session, max_batch=1)
        ask = Asked(batcher)
        now = time.monotonic()
        ask(1.0, deadline=now + 1000.0)
        ask(1.0)
        ask(1.0)
        await until(lambda: session.order == [1.0])
        ask.tickets[0].request.deadline = now  # which has passed
        await until(lambda: ask.values() == ["timeout", None, None])
        session.gate.set()
        await ask.all()
        assert ask.values() == ["timeout", 2.0, 2.0]
        assert session.order == [1.0, 1.0]
        await settle(batcher)

    run(scenario())


def test_who_waits_for_an_equal_request_keeps_a_timeout_of_its_own() -> None:
    async def scenario() -> None:
        session = Doubling()
        session.gate.clear()
        batcher = caching(session, max_batch=1)
        ask = Asked(batcher)
        now = time.monotonic()
        ask(1.0)
        ask(1.0, deadline=now + 1000.0)
        ask(1.0)
        await until(lambda: session.order == [1.0])
        ask.tickets[1].request.deadline = now  # which has passed
        await until(lambda: ask.values() == [None, "timeout", None])
        assert batcher.model.statistics.refused == {"timeout": 1}
        session.gate.set()
        await ask.all()
        assert ask.values() == [2.0, "timeout", 2.0]
        assert session.order == [1.0]
        await settle(batcher)

    run(scenario())
