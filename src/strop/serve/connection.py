"""One HTTP/1.1 connection, called by the event loop: requests in, answers out, in order.

Small bodies come out of httptools' parser. A body that is not there at once is received straight
into a buffer of its own, so that the tensors in it are views of what the kernel wrote, aligned to
64 bytes. Answers leave in the order of the requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import httptools
import numpy as np

from strop.serve.codec import Limits
from strop.serve.errors import BadRequest, Overloaded, ServeError, TooLarge
from strop.serve.exchange import Exchange, Malformed, RequestTimeout

if TYPE_CHECKING:
    from strop.serve.http import Front
    from strop.serve.routes import Match

_KEPT = frozenset(
    {
        b"accept-encoding",
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"expect",
        b"inference-header-content-length",
        b"transfer-encoding",
        b"x-request-id",
    }
)
_REPEATED = frozenset(
    {
        b"accept-encoding",
        b"content-encoding",
        b"content-length",
        b"inference-header-content-length",
    }
)
_KNOWN_HEADS = 4096  # of some 200 bytes each
_DISCARDED = 64 << 10  # a refused body up to here is read, so that the connection can go on
_LINGER = 3.0  # seconds in which a client may still be writing what nobody reads
_ALIGNED = 64
_TCP_CLOSE = 7  # the first byte of Linux' tcp_info for a connection that is no more
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class KnownHead(NamedTuple):
    """The head of a request that was parsed and admitted once, for others with the same bytes.

    Clients repeat themselves: all that differs between two requests of one is the length of the
    body. Looking up the bytes of a whole head costs a tenth of parsing them again.
    """

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    match: Match
    length: int


class Connection(asyncio.BufferedProtocol):
    """One client's connection: requests in, answers out, in order."""

    __slots__ = (
        "_arrived",
        "_chunks",
        "_current",
        "_discarding",
        "_eof",
        "_exchanges",
        "_got",
        "_head",
        "_headers",
        "_last",
        "_lingering",
        "_parser",
        "_paused",
        "_reading",
        "_since",
        "_stuck",
        "_target",
        "_transport",
        "_unknown",
        "_upgrading",
        "_window",
        "closed",
        "front",
    )

    def __init__(self, front: Front) -> None:
        self.front = front
        self.closed = False
        self._transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._exchanges: deque[Exchange] = deque()
        # What is being read:
        self._reading = False  # between a request's first byte and its last
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._head = 0
        self._arrived = 0.0
        self._current: Exchange | None = None  # its headers are complete, its body is not
        self._chunks: list[bytes] = []
        self._got = 0
        self._window: memoryview | None = None
        self._unknown = b""  # the head that is being parsed, where it may be remembered
        self._upgrading = False  # the body comes after what the parser takes for the end
        # What is not:
        self._discarding = False  # nothing that still comes is looked at
        self._lingering = 0.0
        self._paused = False
        self._stuck = 0.0
        self._eof = False
        self._since = self._last = time.monotonic()

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
            self.closed = True
            self._transport.abort()
            return
        self.front.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Take back what nobody will read the answer of."""
        self.closed = True
        self.front.connections.discard(self)
        for exchange in self._exchanges:
            self._release(exchange)
            if exchange.output is None and exchange.ticket is not None:
                exchange.ticket.cancel()
        self._exchanges.clear()
        self._chunks.clear()
        self._window = self._current = None
        self._parser = None  # it holds this object, and this object held it

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: into the body that is awaited, else into the shared window."""
        return self.front.window if self._window is None else self._window

    def buffer_updated(self, size: int) -> None:
        """Take up bytes that arrived."""
        if self._window is not None:
            self._receive(size)
        elif self._discarding:
            pass
        elif self._reading:
            self._feed(self.front.window[:size])
        else:
            self._take(size)

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
        self._stuck = time.monotonic()
        self._pause()

    def resume_writing(self) -> None:
        """It does again."""
        self._stuck = 0.0
        self._resume()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._reading = True
        self._target = b""
        self._headers = {}
        self._head = 0
        self._got = 0
        self._arrived = time.monotonic()

    def on_url(self, part: bytes) -> None:
        """A piece of the request target."""
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line."""
        self._head += len(name) + len(value) + 4  # the colon, a space, and the line's end
        name = name.lower()
        if name in _KEPT:
            # Sent twice is refused further on: no value is right.
            self._headers[name] = value if name not in self._headers else b"\0"

    def on_headers_complete(self) -> None:
        """The head of a request is there: refuse what needs no body to be refused."""
        if self._discarding:
            return
        parser, headers = self._parser, self._headers
        version = parser.get_http_version()
        if version != "1.1":
            headers[b":version"] = version.encode()
        exchange = self._current = Exchange(self, parser.get_method(), self._target, headers)
        exchange.arrived = self._arrived
        if b"x-request-id" in headers or self.front.access_log is not None:
            exchange.identify()
        exchange.keep_alive = parser.should_keep_alive() and exchange.method != b"CONNECT"
        exchange.plain = (
            version == "1.1"
            and exchange.keep_alive
            and exchange.method != b"HEAD"
            and not exchange.request_id
        )
        self.front.requests += 1
        self._exchanges.append(exchange)
        try:
            self._admit(exchange)
        except ServeError as error:
            exchange.refusal = error
            if (
                isinstance(error, Malformed)
                or exchange.wants_continue
                or self._upgrading
                or (exchange.length or 0) > _DISCARDED
            ):
                self._refuse(exchange, error)
        except Exception as error:
            exchange.keep_alive = False
            exchange.fail_unexpectedly(error)
        if self._unknown:
            self._remember(exchange)

    def on_body(self, chunk: bytes) -> None:
        """A piece of a body."""
        exchange = self._current
        if exchange is None:
            return
        self._got += len(chunk)
        if exchange.refusal is not None:
            if self._got > _DISCARDED:
                self._refuse(exchange, exchange.refusal)
            return
        error = self._hold(exchange, len(chunk))
        if error is None:
            self._chunks.append(chunk)
        else:
            self._refuse(exchange, error)

    def on_message_complete(self) -> None:
        """A request is complete."""
        if self._upgrading:
            return
        self._reading = False
        exchange = self._current
        if exchange is None:
            return
        chunks = self._chunks
        if chunks:
            exchange.body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            self._chunks = []
        self._complete(exchange)

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
                self._current = self._window = None
                self._discarding = True
            exchanges.popleft()
            self._release(first)
            if len(output) == 1:
                self._transport.write(output[0])
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

    def close(self) -> None:
        """Close once what was written has left."""
        self._transport.close()

    def check(self, now: float) -> None:
        """Called once a second: end what takes too long."""
        limits = self.front.limits
        if self._lingering:
            if now > self._lingering:
                self._transport.abort()
        elif self._stuck:
            if now - self._stuck > limits.write_seconds:
                self._transport.abort()
        elif self._eof:
            self._abort_if_gone()
        elif self._discarding:
            pass
        elif self._reading and not self._paused:
            allowed = limits.header_seconds
            if self._current is not None:
                allowed = limits.body_seconds + self._got / limits.slowest
            if now - self._arrived > allowed:
                self._stop(RequestTimeout("the request did not arrive in time"))
        elif not self._exchanges and now - self._last > limits.idle_seconds:
            self._transport.close()

    # How a request is read.

    def _take(self, size: int) -> None:
        """Requests from the window, of which the first byte is the first of a request."""
        front = self.front
        window = front.window
        start = 0
        while start < size:
            end = front.buffer.find(b"\r\n\r\n", start, size) + 4
            if end < 4:
                break
            head = bytes(window[start:end])
            known = front.known.get(head)
            if known is None:
                self._unknown = head
                break
            start = min(end + known.length, size)
            self._accept(known, bytes(window[end:start]))
            if self._discarding or self._reading:
                return
        if start < size:
            self._feed(window[start:size])
            self._unknown = b""

    def _accept(self, known: KnownHead, body: bytes) -> None:
        """A request with a known head; `body` is as much of it as is there."""
        front = self.front
        exchange = Exchange(self, known.method, known.target, known.headers)
        exchange.arrived = time.monotonic()
        exchange.plain = True
        exchange.match = known.match
        exchange.length = known.length
        front.requests += 1
        self._exchanges.append(exchange)
        self._got = size = len(body)
        exchange.held = size
        front.in_flight += size
        if size == known.length and front.in_flight <= front.limits.in_flight:
            exchange.body = body
            self._complete(exchange)
            return
        self._current = exchange
        self._reading = True
        self._arrived = exchange.arrived
        if front.in_flight > front.limits.in_flight:
            self._refuse(exchange, _overloaded())
        else:
            self._chunks.append(body)
            self._await_body(exchange)

    def _remember(self, exchange: Exchange) -> None:
        """Note the head of a request that had nothing particular, for the next one like it."""
        known, length, match = self.front.known, exchange.length, exchange.match
        if (
            exchange.plain
            and exchange.refusal is None
            and length is not None
            and match is not None
            and match.access != "admin"
            and exchange.headers.keys() <= _REPEATED
            and self._unknown.startswith(exchange.method)
        ):
            if len(known) >= _KNOWN_HEADS:
                known.clear()
            known[self._unknown] = KnownHead(
                exchange.method, exchange.target, exchange.headers, match, length
            )
        self._unknown = b""

    def _feed(self, data: memoryview) -> None:
        parser = self._parser
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserCallbackError as error:
            self.front.log.fault(error.__context__ or error, request="")
            self._transport.abort()
            return
        except httptools.HttpParserError:
            if not self._discarding:
                self._stop(Malformed("this is not a request of HTTP/1.1"))
            return
        if self._discarding or not self._reading:
            return
        exchange = self._current
        if exchange is None:
            self._head += len(data)
            if self._head > self.front.limits.head:
                self._stop(_head_too_large(self._target, self.front.limits))
        elif exchange.length and exchange.refusal is None:
            self._await_body(exchange)

    def _ignore_upgrade(self, rest: memoryview) -> None:
        """Go on in HTTP/1.1, as the standard has it for servers that do not know the protocol.

        The parser takes what follows the headers for the other protocol, and so leaves the body.
        """
        self._parser = httptools.HttpRequestParser(self)
        exchange = self._current
        if exchange is not None and not self._discarding:
            self._upgrading = False
            length = exchange.length or 0
            piece = bytes(rest[:length])
            rest = rest[len(piece) :]
            self.on_body(piece)
            if self._current is None:
                return
            if len(piece) < length:
                self._await_body(exchange)
                return
            self.on_message_complete()
        if rest and not self._discarding:
            self._feed(rest)

    def _await_body(self, exchange: Exchange) -> None:
        """Let the rest of a body come straight into a buffer of its length."""
        length = exchange.length or 0
        memory = np.empty(length + _ALIGNED, np.uint8)
        text = exchange.headers.get(b"inference-header-content-length", b"")
        shift = int(text) if text.isdigit() and len(text) < 12 else 0
        start = -(memory.ctypes.data + shift) % _ALIGNED
        body = memory.data[start : start + length]
        position = 0
        for chunk in self._chunks:
            body[position : position + len(chunk)] = chunk
            position += len(chunk)
        self._chunks = []
        exchange.body = body
        self._window = body[position:]

    def _receive(self, size: int) -> None:
        exchange, window = self._current, self._window
        assert exchange is not None and window is not None
        self._got += size
        self._window = window = window[size:]
        error = self._hold(exchange, size)
        if error is not None:
            exchange.body = b""
            self._refuse(exchange, error)
        elif not window:
            self._window = None
            self._reading = False
            # The parser still waits for the body that passed it by.
            self._parser = httptools.HttpRequestParser(self)
            self._complete(exchange)

    def _admit(self, exchange: Exchange) -> None:
        limits, headers = self.front.limits, exchange.headers
        if (length := headers.get(b"content-length")) is not None:
            exchange.length = int(length)
        if self._parser.should_upgrade():
            if b"transfer-encoding" in headers:
                raise Malformed("an upgrade is not offered")
            self._upgrading = bool(exchange.length)
        if (expected := headers.get(b"expect")) is not None:
            if expected.lower() != b"100-continue":
                raise Malformed("only 100-continue can be expected", status=417)
            exchange.wants_continue = bool(exchange.length) or b"transfer-encoding" in headers
        if self._head + len(self._target) > limits.head:
            raise _head_too_large(self._target, limits)
        if b"\0" in headers.values():
            raise BadRequest("a header that may be sent once is there twice")
        exchange.match = match = self.front.router.match(exchange.target)
        self.front.router.admit(exchange, match)
        if exchange.length is not None and exchange.length > limits.body:
            raise TooLarge(f"the body has {exchange.length} bytes, the limit is {limits.body}")
        if exchange.wants_continue and exchange is self._exchanges[0]:
            self._send_continue(exchange)

    def _hold(self, exchange: Exchange, size: int) -> ServeError | None:
        """Count bytes that arrived; the error if they are too many."""
        front = self.front
        exchange.held += size
        front.in_flight += size
        if exchange.held > front.limits.body:
            return TooLarge(f"the body has more than {front.limits.body} bytes")
        if front.in_flight > front.limits.in_flight:
            return _overloaded()
        return None

    def _complete(self, exchange: Exchange) -> None:
        self._current = None
        exchange.wants_continue = False
        if not exchange.keep_alive:
            self._discarding = True
        try:
            if exchange.refusal is not None:
                exchange.fail(exchange.refusal)
            elif exchange.match is not None:
                self.front.router.dispatch(exchange, exchange.match)
        except ServeError as error:
            exchange.fail(error)
        except Exception as error:
            exchange.fail_unexpectedly(error)
        if len(self._exchanges) >= self.front.limits.pipelined:
            self._pause()

    def _refuse(self, exchange: Exchange, error: ServeError) -> None:
        """Answer a request whose body is not read to its end, which ends the connection."""
        exchange.refusal = error
        exchange.keep_alive = False
        exchange.wants_continue = False
        self._discarding = True
        self._current = self._window = None
        self._chunks.clear()
        exchange.fail(error)

    def _stop(self, error: ServeError) -> None:
        """Answer what cannot be read on, after what was asked before it."""
        exchange = self._current
        if exchange is None:
            headers = {b":version": b"1.1"}
            exchange = Exchange(self, b"", self._target, headers)
            exchange.arrived = self._arrived
            self._exchanges.append(exchange)
        self._refuse(exchange, error)

    # How a connection ends.

    def _finish(self) -> None:
        """Close after the last answer, without cutting it off.

        Where the client is still sending, closing at once would make its kernel throw away what
        it has not read yet (RFC 9112, section 9.6): its bytes are read and forgotten for a while.
        """
        self._discarding = True
        self._window = self._current = None
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
        if exchange is self._current and not self._got:
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


def _overloaded() -> Overloaded:
    return Overloaded("requests in flight hold all memory allowed", retry_after=1.0)


def _head_too_large(target: bytes, limits: Limits) -> Malformed:
    if len(target) > limits.head // 2:
        return Malformed("the request target is too long", status=414)
    return Malformed(f"the headers have more than {limits.head} bytes", status=431)
