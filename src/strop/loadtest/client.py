"""Raw HTTP/1.1 connections that cost the generator as little as possible.

One request is in flight a connection. Nothing is awaited in the hot path: a request is one
``transport.write``, an answer one callback.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from strop.errors import InputError
from strop.loadtest.target import Target

BROKEN = 0
"""The status of a query whose connection broke."""
TIMED_OUT = -1
"""The status of a query that had no answer in time."""

Done = Callable[[float, int], None]
"""Takes the intended send time and the HTTP status (or one of the two above)."""

_SWEEP_SECONDS = 0.1
_RECONNECT_SECONDS = 0.05


class Pool:
    """Connections to one server; queries wait here when all are busy.

    Parameters
    ----------
    done
        Called once a query, in the event loop.
    timeout
        Seconds from the time at which a query was meant to be sent until it is given up.
    """

    def __init__(self, target: Target, done: Done, *, timeout: float) -> None:
        self.done = done
        self.first_error = ""
        self.waiting: deque[tuple[bytes, float]] = deque()
        self._target = target
        self._timeout = timeout
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def in_flight(self) -> int:
        """Queries that were written and not answered yet."""
        return len(self._all) - len(self._idle)

    async def open(self, connections: int) -> None:
        """Open the connections; InputError when the server takes none."""
        opened = await asyncio.gather(
            *(self._connect() for _ in range(connections)), return_exceptions=True
        )
        failures = [one for one in opened if isinstance(one, BaseException)]
        if len(failures) == connections:
            raise InputError(f"{self._target.url} takes no connection: {failures[0]}")
        for _ in failures:
            self._reopen()
        self._sweep()

    def submit(self, request: bytes, intended: float) -> None:
        """Send `request` now, or when a connection is free."""
        if self._idle:
            self._idle.pop().send(request, intended)
        else:
            self.waiting.append((request, intended))

    async def close(self) -> None:
        """Close every connection; queries in flight are forgotten."""
        self._closed = True
        self.waiting.clear()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in list(self._all):
            connection.busy = False
            connection.abort()
        await asyncio.sleep(0)

    def release(self, connection: _Connection) -> None:
        """`connection` is free again."""
        if self.waiting:
            connection.send(*self.waiting.popleft())
        else:
            self._idle.append(connection)

    def lose(self, connection: _Connection) -> None:
        """`connection` is closed."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if not self._closed:
            # A server that closes what it has just accepted must not make us spin.
            self._reopen(pause=0.0 if connection.served else _RECONNECT_SECONDS)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        target = self._target
        _, connection = await loop.create_connection(
            lambda: _Connection(self), target.host, target.port, ssl=target.tls
        )
        self._all.add(connection)
        self.release(connection)

    def _reopen(self, *, pause: float = 0.0) -> None:
        task = asyncio.get_running_loop().create_task(self._connect_again(pause))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _connect_again(self, pause: float) -> None:
        while not self._closed:
            await asyncio.sleep(pause)
            try:
                await self._connect()
            except OSError as error:
                self.first_error = self.first_error or f"cannot connect: {error}"
                # The queries that wait have no connection to fail on.
                while self.waiting and not self._all:
                    self.done(self.waiting.popleft()[1], BROKEN)
                pause = _RECONNECT_SECONDS
            else:
                return

    def _sweep(self) -> None:
        limit = time.perf_counter() - self._timeout
        for connection in list(self._all):
            if connection.busy and connection.intended < limit:
                connection.fail(TIMED_OUT, f"no answer within {self._timeout:g} s")
        while self.waiting and self.waiting[0][1] < limit:
            self.done(self.waiting.popleft()[1], TIMED_OUT)
        self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)


class _Connection(asyncio.Protocol):
    """One connection, and the one query that it carries."""

    __slots__ = ("_body", "_parser", "_pool", "_transport", "busy", "intended", "served")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._transport: Any = None
        self._parser = _parser(self)
        self._body = b""
        self.busy = False
        self.intended = 0.0
        self.served = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self, request: bytes, intended: float) -> None:
        self.busy = True
        self.intended = intended
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except Exception as error:  # httptools has no one base class for what it raises
            self.fail(BROKEN, f"the answer is no HTTP: {error}")

    def on_body(self, body: bytes) -> None:
        if self._parser.get_status_code() != 200:
            self._body += body

    def on_message_complete(self) -> None:
        if not self.busy:  # nobody asked: a timeout of the server's, or worse
            self.abort()
            return
        status = self._parser.get_status_code()
        if status != 200:
            if not self._pool.first_error and status not in (429, 503):
                said = self._body[:300].decode("utf-8", "replace")
                self._pool.first_error = f"status {status}: {said}"
            self._body = b""
        keep = self._parser.should_keep_alive()
        self.busy = False
        self.served = True
        self._pool.done(self.intended, status)
        if keep:
            self._pool.release(self)
        else:
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.fail(BROKEN, f"the connection broke: {error or 'closed by the server'}")
        self._pool.lose(self)

    def fail(self, status: int, reason: str) -> None:
        """End the query in flight, if there is one, and the connection."""
        if self.busy:
            self.busy = False
            self._pool.first_error = self._pool.first_error or reason
            self._pool.done(self.intended, status)
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()


def _parser(protocol: _Connection) -> Any:
    import httptools

    return httptools.HttpResponseParser(protocol)
