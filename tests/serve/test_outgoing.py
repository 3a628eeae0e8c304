"""How answers leave, and how a connection ends."""

from __future__ import annotations

import io
from typing import Any

import pytest

from strop.serve.batcher import Batcher
from strop.serve.codec import Limits
from strop.serve.connection import Connection
from strop.serve.core import Core
from strop.serve.http import Front
from strop.serve.known import KnownHeads
from strop.serve.logs import Log
from strop.serve.routes import Routes
from strop.serve.security import Guard

from .fakes import Doubling, served, settle
from .serving import post
from .test_express import INFER, Client, Wire, on_a_loop, plain
from .waiting import until

SLOWEST = 1000
LIMITS = Limits(write_seconds=10.0, idle_seconds=100.0, slowest=SLOWEST)


class Unread(Wire):
    """A client that has not read all; `left` bytes of it are still here."""

    left = 0
    aborted = False

    def get_write_buffer_size(self) -> int:
        return self.left

    def abort(self) -> None:
        self.aborted = True


def connected() -> tuple[Connection, Unread]:
    routes: Any = None
    connection, wire = Connection(Front(routes, LIMITS, Log(io.StringIO()))), Unread()
    transport: Any = wire
    connection.connection_made(transport)
    return connection, wire


@pytest.mark.parametrize("paused", [True, False])
def test_an_answer_that_nobody_reads_does_not_stay(paused: bool) -> None:
    """Also what is too little to pause for, and of a connection that waits for it to be closed."""
    connection, wire = connected()
    begin = connection._last
    wire.left = 500
    if paused:
        connection.pause_writing()
    for second in range(1, 11):
        connection.check(begin + second)
        assert not wire.aborted
    connection.check(begin + 10.5)
    assert wire.aborted


def test_an_answer_that_is_read_slowly_is_not_cut_off() -> None:
    connection, wire = connected()
    begin = connection._last
    wire.left = 100 * SLOWEST
    connection.pause_writing()
    for second in range(1, 100):
        wire.left -= SLOWEST
        connection.check(begin + second)
        assert not wire.aborted
    wire.left -= SLOWEST // 2  # and now by far too slowly
    for second in range(100, 112):
        connection.check(begin + second)
    assert wire.aborted


@on_a_loop
async def test_what_one_client_asked_in_a_row_is_answered_to_the_end_of_a_drain() -> None:
    session = Doubling()
    session.gate.clear()
    core = Core()
    batcher = Batcher(served(session, max_batch=1), core.loop)
    repository: Any = core.repository
    repository.batcher = lambda name, version="": batcher
    repository.resolve = lambda request: batcher
    log = Log(io.StringIO())
    front = Front(Routes(core, Guard((), ()), Limits(), log, live=dict), Limits(), log)
    client = Client(front)
    for value in range(3):
        client.send(post(INFER, plain(value)))
    await until(lambda: batcher.running_rows + batcher.queued == 3)
    core.draining = front.draining = True
    session.gate.set()
    answers = await client.answers(3)
    assert [status for status, _, _ in answers] == [200] * 3
    assert ["connection" in headers for _, headers, _ in answers] == [False, False, True]
    assert client.wire.closed
    front.close()
    await settle(batcher)


@on_a_loop
async def test_long_heads_are_not_kept() -> None:
    """Thousands of them would be many megabytes that no limit counts."""
    core = Core()
    batcher = Batcher(served(Doubling()), core.loop)
    repository: Any = core.repository
    repository.batcher = lambda name, version="": batcher
    repository.resolve = lambda request: batcher
    log = Log(io.StringIO())
    front = Front(Routes(core, Guard((), ()), Limits(), log, live=dict), Limits(), log)
    client = Client(front)
    for number in range(10):
        client.send(post(INFER, plain(number), f"X-Long: {'a' * 10_000}{number}"))
        client.send(post(INFER, plain(number), "X-Short: a"))
    assert len(await client.answers(20)) == 20
    known: KnownHeads = front.known
    assert len(known) == 1
    client.leave()
    front.close()
    await settle(batcher)
