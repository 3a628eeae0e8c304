"""How a body is received."""

from __future__ import annotations

import asyncio
import io
import socket
import sys
from typing import Any

import numpy as np
import pytest

from strop.serve.body import Body
from strop.serve.codec import Limits
from strop.serve.http import Front
from strop.serve.logs import Log

MiB = 1 << 20


class Wire:
    """As much of a transport as a body looks at."""

    def __init__(self, connection: socket.socket | None = None, tls: object = None) -> None:
        self.told = {"socket": connection, "sslcontext": tls}

    def get_extra_info(self, name: str) -> object:
        return self.told[name]


@pytest.fixture
def pair() -> Any:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as near,
        listener.accept()[0] as far,
    ):
        yield near, far


def mark(connection: socket.socket) -> int:
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


@pytest.mark.skipif(sys.platform != "linux", reason="gathered on Linux alone")
def test_a_large_body_is_gathered_in_parts_of_which_the_last_is_what_is_left(pair: Any) -> None:
    near, _ = pair
    wire: Any = Wire(near)
    body = Body()
    body.expect(3 * MiB, 0)
    part = body.gather(wire, 1)
    assert mark(near) == part == MiB
    assert near.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= MiB  # it fits
    body.fill(MiB)
    part = body.gather(wire, part)
    assert mark(near) == part == MiB
    body.fill(MiB + 1)
    part = body.gather(wire, part)
    assert mark(near) == part == MiB - 1  # not 1: one look is enough for all of it
    assert body.fill(MiB - 1)
    assert body.gather(wire, part) == mark(near) == 1  # and what follows is told at once
    body.whole()
    assert body.gather(wire, 1) == 1


def test_small_pieces_do_not_take_many_times_their_bytes() -> None:
    body = Body()
    sent = [bytes([number % 256]) * 2 for number in range(10_000)]
    for piece in sent:
        body.add(piece)
    assert len(body._pieces) < 100
    assert body.whole() == b"".join(sent)
    body.add(b"ab")
    assert body.whole() == b"ab"


@pytest.mark.skipif(sys.platform != "linux", reason="gathered on Linux alone")
def test_no_part_is_so_large_that_a_slow_client_seems_to_have_stopped(pair: Any) -> None:
    near, _ = pair
    wire: Any = Wire(near)
    routes: Any = None
    for limits, part in (
        (Limits(), MiB),
        (Limits(body_seconds=2.0, slowest=50_000), 100_000),
        (Limits(body_seconds=0.001, slowest=1), 1),
    ):
        front = Front(routes, limits, Log(io.StringIO()))
        assert front.part == part
        body = Body()
        body.expect(3 * MiB, 0)
        assert body.gather(wire, 1, front.part) == mark(near) == part
        body.drop()
        body.gather(wire, part, front.part)


def test_small_bodies_and_encrypted_ones_are_not(pair: Any) -> None:
    near, _ = pair
    body = Body()
    body.expect(MiB, 0)
    plain: Any = Wire(near)
    assert body.gather(plain, 1) == mark(near) == 1
    body.expect(3 * MiB, 0)
    encrypted: Any = Wire(near, tls="a context")
    assert body.gather(encrypted, 1) == mark(near) == 1


def test_a_socket_that_is_gone_does_no_harm() -> None:
    gone = socket.socket()
    gone.close()
    wire: Any = Wire(gone)
    body = Body()
    body.expect(3 * MiB, 0)
    body.gather(wire, 1)


@pytest.mark.parametrize("shift", [0, 1, 63, 64, 131])
def test_the_part_that_matters_is_aligned(shift: int) -> None:
    body = Body()
    body.add(memoryview(b"begin"))
    body.size = 5
    body.expect(500, shift)
    assert body.window is not None
    body.window[:] = bytes(495)
    assert body.fill(495)
    whole = body.whole()
    assert bytes(whole[:5]) == b"begin"
    address = np.frombuffer(whole, np.uint8).__array_interface__["data"][0]
    assert (address + shift) % 64 == 0


def test_what_is_gathered_arrives_whatever_the_pieces() -> None:
    """Through the kernel: parts, the end of a body that is smaller than a part, and no more."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        sent = np.random.default_rng(0).integers(0, 256, 3 * MiB + 77, np.uint8).tobytes()
        got: asyncio.Future[bytes] = loop.create_future()

        class Reader(asyncio.BufferedProtocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport
                self.body = Body()
                self.body.expect(len(sent), 0)
                self.part = self.body.gather(transport, 1)

            def get_buffer(self, sizehint: int) -> memoryview:
                assert self.body.window is not None
                return self.body.window

            def buffer_updated(self, size: int) -> None:
                last = self.body.fill(size)
                self.part = self.body.gather(self.transport, self.part)
                if last:
                    got.set_result(bytes(self.body.whole()))
                    self.transport.close()

        server = await loop.create_server(Reader, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for start, end in ((0, 10), (10, 2 * MiB), (2 * MiB, 2 * MiB + 5), (2 * MiB + 5, None)):
            writer.write(sent[start:end])
            await writer.drain()
            await asyncio.sleep(0)
        assert await asyncio.wait_for(got, 60) == sent
        writer.close()
        server.close()
        await server.wait_closed()

    asyncio.run(scenario())
