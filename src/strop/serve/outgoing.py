"""What leaves a connection: answers in the order of the requests, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import deque
from typing import TYPE_CHECKING

from strop.serve.body import Body
from strop.serve.exchange import Exchange

if TYPE_CHECKING:
    from strop.serve.http import Front
    from strop.serve.known import KnownHead

_LINGER = 3.0  # seconds in which a client may still be writing what nobody reads
_TCP_CLOSE = 7  # the first byte of Linux' tcp_info for a connection that is no more
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_TURNED_AWAY = 256  # connections beyond the limit that wait at once for their client to read why
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nServer: strop\r\nContent-Type: application/json\r\n"
    b"Retry-After: 1\r\nConnection: close\r\nContent-Length: 43\r\n\r\n"
    b'{"error":"too many connections are open"}\r\n'
)


class Outgoing(asyncio.BufferedProtocol):
    """The half of a connection that answers, and that ends it; `Connection` is the other half."""

    __slots__ = (
        "_body",
        "_current",
        "_discarding",
        "_eof",
        "_exchanges",
        "_last",
        "_lingering",
        "_passing",
        "_paused",
        "_read_at",
        "_reading",
        "_stuck",
        "_transport",
        "_unsent",
        "closed",
        "front",
    )

    def __init__(self, front: Front) -> None:
        self.front = front
        self.closed = False
        self._transport: asyncio.Transport
        self._exchanges: deque[Exchange] = deque()
        self._passing: Exchange | None = None  # the slot of a request in the express lane
        self._lingering = 0.0
        self._paused = False
        self._stuck = False  # the client does not read its answers
        self._eof = False
        self._last = self._read_at = time.monotonic()
        self._unsent = 0  # bytes that waited at the last look for the client to read
        # Kept by the other half:
        self._reading = False  # between a request's first byte and its last
        self._current: Exchange | None = None  # its headers are complete, its body is not
        self._body = Body()
        self._discarding = False  # nothing that still comes is looked at

    @property
    def busy(self) -> bool:
        """Whether something was asked, or is being sent."""
        return bool(self._exchanges) or self._transport.get_write_buffer_size() > 0

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "writelines")
        self._transport = transport  # type: ignore[assignment]
        if len(self.front.connections) >= self.front.limits.connections:
            self._turn_away()
            return
        self.front.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Take back what nobody will read the answer of."""
        if self.closed and self._lingering:
            self.front.turned_away -= 1
        self.closed = True
        self.front.connections.discard(self)
        for exchange in self._exchanges:
            self._release(exchange)
            if exchange.output is None and exchange.ticket is not None:
                exchange.ticket.cancel()
        self._exchanges.clear()
        self._current = None
        self._body.drop()

    def eof_received(self) -> bool:
        """The client will send no more; whether the connection stays open for answers.

        That it closed its half alone, or all, cannot be seen, only tried: an interim response,
        which every client of HTTP/1.1 skips, makes the kernel of one that is gone refuse.
        """
        if self.closed or not self._exchanges or self._current is not None or self._is_tls():
            return False
        self._eof = True
        self._discarding = True
        self._exchanges[-1].keep_alive = False
        if self._exchanges[0].headers.get(b":version") != b"1.0":
            self._transport.write(_CONTINUE)
            asyncio.get_running_loop().call_later(0.05, self._abort_if_gone)
        return True

    def pause_writing(self) -> None:
        """The client does not read its answers: read no more of its requests."""
        self._stuck = True
        self._pause()

    def resume_writing(self) -> None:
        """It does again."""
        self._stuck = False
        self._resume()

    # What the rest of the front calls.

    def answered(self, exchange: Exchange) -> None:
        """Send what is ready, up to the first request that is not."""
        if self.closed:
            return
        exchanges = self._exchanges
        while exchanges and (output := exchanges[0].output) is not None:
            first = exchanges[0]
            if first is self._current and first.refusal is None:
                # Answered before its body was read: what follows cannot be told from it.
                first.keep_alive = False
                self._current = None
                self._body.drop()
                self._discarding = True
            exchanges.popleft()
            self.front.in_flight -= first.held
            first.held = 0
            if isinstance(output, bytes):
                self._transport.write(output)
            else:
                self._transport.writelines(output)
            if not first.keep_alive:
                self._finish()
                return
        self._last = time.monotonic()
        if exchanges and exchanges[0].wants_continue:
            self._send_continue(exchanges[0])
        if self._paused and len(exchanges) < self.front.limits.pipelined:
            self._resume()

    def is_last(self, exchange: Exchange) -> bool:
        """Whether nothing was asked after this."""
        return not self._exchanges or self._exchanges[-1] is exchange

    def passed(self, text: bytes, now: float) -> None:
        """Send the answer to the request that is in the express lane."""
        if self.closed:
            return
        exchanges, front = self._exchanges, self.front
        passing = exchanges[0]
        if len(exchanges) == 1 and passing.keep_alive and not front.draining:
            exchanges.clear()
            self._transport.write(b"%b%d\r\n\r\n%b" % (front.heads.ok, len(text), text))
            self._last = now
        else:
            self._passing = None
            passing.answer_ok(text)

    def resume(self, known: KnownHead, body: bytes, arrived: float) -> Exchange:
        """The request that is in the express lane, to be answered in the ordinary way."""
        exchange, self._passing = self._passing, None
        assert exchange is not None
        exchange.target, exchange.headers = known.target, known.headers
        exchange.match, exchange.length = known.match, known.length
        exchange.body, exchange.arrived = body, arrived
        exchange.held = len(body)
        self.front.in_flight += len(body)
        return exchange

    def close(self) -> None:
        """Close once what was written has left."""
        self._transport.close()

    def check(self, now: float) -> None:
        """Called once a second: end what takes too long."""
        limits = self.front.limits
        unsent = self._transport.get_write_buffer_size()
        if not unsent or unsent + limits.slowest <= self._unsent:
            self._read_at = now
        self._unsent = unsent
        if self._lingering:
            if now > self._lingering:
                self._transport.abort()
        elif unsent:
            # Also of a connection that is being closed, which waits for this as long as it takes.
            if now - self._read_at > limits.write_seconds:
                self._transport.abort()
        elif self._eof:
            self._abort_if_gone()
        elif self._reading or self._discarding or self._exchanges:
            pass
        elif now - self._last > limits.idle_seconds:
            self._transport.close()

    # How a connection ends.

    def _finish(self) -> None:
        """Close after the last answer, without cutting it off.

        Where the client is still sending, closing at once would make its kernel throw away what
        it has not read yet (RFC 9112, section 9.6): its bytes are read and forgotten for a while.
        """
        self._discarding = True
        self._current = None
        self._body.drop()
        for exchange in self._exchanges:
            self._release(exchange)
            if exchange.output is None and exchange.ticket is not None:
                exchange.ticket.cancel()
        self._exchanges.clear()
        if self._eof or not self._reading or self._is_tls():
            self._transport.close()
            return
        self._lingering = time.monotonic() + _LINGER
        self._resume()
        with contextlib.suppress(OSError, NotImplementedError):
            self._transport.write_eof()

    def _turn_away(self) -> None:
        """Say that there are too many connections, to one that is not looked at any further.

        It may be sending its request: closed at once it would lose the answer, as in `_finish`.
        """
        front = self.front
        self.closed = True
        self._discarding = True
        if front.turned_away >= _TURNED_AWAY or self._is_tls():
            self._transport.write(_FULL)
            self._transport.close()
            return
        front.turned_away += 1
        self._lingering = time.monotonic() + _LINGER
        self._transport.write(_FULL)
        with contextlib.suppress(OSError, NotImplementedError):
            self._transport.write_eof()
        asyncio.get_running_loop().call_later(_LINGER, self._transport.abort)

    def _abort_if_gone(self) -> None:
        if self.closed or not self._eof:
            return
        connection = self._transport.get_extra_info("socket")
        if connection is None or not hasattr(socket, "TCP_INFO"):
            return
        try:
            state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        except OSError:
            state = bytes([_TCP_CLOSE])
        if state[0] == _TCP_CLOSE:
            self._transport.abort()

    def _send_continue(self, exchange: Exchange) -> None:
        exchange.wants_continue = False
        if exchange is self._current and not self._body.size:
            self._transport.write(_CONTINUE)

    def _release(self, exchange: Exchange) -> None:
        self.front.in_flight -= exchange.held
        exchange.held = 0

    def _pause(self) -> None:
        if not self._paused and not self.closed:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and not self._stuck and not self.closed:
            self._paused = False
            self._transport.resume_reading()

    def _is_tls(self) -> bool:
        return self._transport.get_extra_info("sslcontext") is not None
