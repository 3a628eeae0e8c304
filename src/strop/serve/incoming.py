"""What comes into a connection: requests, as a parser finds them in the bytes.

Small bodies come out of httptools' parser, others go straight into a buffer (`body.py`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import httptools

from strop.serve.codec import Limits
from strop.serve.errors import BadRequest, Overloaded, ServeError, TooLarge
from strop.serve.exchange import Exchange, Malformed
from strop.serve.outgoing import Outgoing

if TYPE_CHECKING:
    from strop.serve.http import Front

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
_DISCARDED = 64 << 10  # a refused body up to here is read, so that the connection can go on


class Incoming(Outgoing):
    """The part of a connection that reads requests one after another."""

    __slots__ = (
        "_arrived",
        "_bypassed",
        "_head",
        "_headers",
        "_parser",
        "_part",
        "_target",
        "_unknown",
        "_upgrading",
    )

    def __init__(self, front: Front) -> None:
        super().__init__(front)
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._head = 0
        self._arrived = 0.0
        self._unknown = b""  # the head that is being parsed, where it may be remembered
        self._part = 1  # bytes that the kernel gathers before it says that there are any
        self._bypassed = False  # the parser waits for a body that does not come by it
        self._upgrading = False  # the body comes after what the parser takes for the end

    def connection_lost(self, error: Exception | None) -> None:
        """Take back what nobody will read the answer of."""
        super().connection_lost(error)
        self._parser = None  # it holds this object, and this object held it

    # What the parser calls.

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._reading = True
        self._target = b""
        self._headers = {}
        self._head = 0
        self._body.begin()
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
            self.front.known.remember(self._unknown, exchange, self.front.router, self.front.limits)
            self._unknown = b""

    def on_body(self, chunk: bytes) -> None:
        """A piece of a body."""
        exchange = self._current
        if exchange is None:
            return
        body = self._body
        body.size += len(chunk)
        if exchange.refusal is not None:
            if body.size > _DISCARDED:
                self._refuse(exchange, exchange.refusal)
            return
        error = self._hold(exchange, len(chunk))
        if error is None:
            body.add(chunk)
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
        exchange.body = self._body.whole()
        self._complete(exchange)

    # How a request is read.

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
            self._bypassed = True
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
        text = exchange.headers.get(b"inference-header-content-length", b"")
        shift = int(text) if text.isdigit() and len(text) < 12 else 0
        self._body.expect(exchange.length or 0, shift)
        self._part = self._body.gather(self._transport, self._part, self.front.part)

    def _receive(self, size: int) -> None:
        exchange = self._current
        assert exchange is not None
        last = self._body.fill(size)
        if self._part > 1:
            self._part = self._body.gather(self._transport, self._part, self.front.part)
        error = self._hold(exchange, size)
        if error is not None:
            self._refuse(exchange, error)
        elif last:
            exchange.body = self._body.whole()
            self._reading = False
            if self._bypassed:
                self._bypassed = False
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
            return overloaded()
        return None

    def _complete(self, exchange: Exchange) -> None:
        self._current = None
        exchange.arrived = time.monotonic()  # how long its client took to send it is not our time
        exchange.wants_continue = False
        if not exchange.keep_alive:
            self._discarding = True
        exchange.dispatch()
        if len(self._exchanges) >= self.front.limits.pipelined:
            self._pause()

    def _refuse(self, exchange: Exchange, error: ServeError) -> None:
        """Answer a request whose body is not read to its end, which ends the connection."""
        exchange.refusal = error
        exchange.keep_alive = False
        exchange.wants_continue = False
        self._discarding = True
        self._current = None
        self._body.drop()
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


def overloaded() -> Overloaded:
    return Overloaded("requests in flight hold all memory allowed", retry_after=1.0)


def _head_too_large(target: bytes, limits: Limits) -> Malformed:
    if len(target) > limits.head // 2:
        return Malformed("the request target is too long", status=414)
    return Malformed(f"the headers have more than {limits.head} bytes", status=431)
