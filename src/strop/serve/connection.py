"""One HTTP/1.1 connection, called by the event loop: requests in, answers out, in order.

Heads that came before are not parsed again (`known.py`); all else is for the parser
(`incoming.py`). Answers leave in the order of the requests (`outgoing.py`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from strop.serve.exchange import Exchange, RequestTimeout
from strop.serve.incoming import Incoming, overloaded
from strop.serve.known import KnownHead

if TYPE_CHECKING:
    from strop.serve.http import Front

_LONGEST_DETOUR = 15  # requests
_AT_ONCE = 8 << 10  # up to here it is cheaper to copy what arrived than to take care of it


class Connection(Incoming):
    """One client's connection: requests in, answers out, in order."""

    __slots__ = ("_detour", "_head_size", "_skipped")

    def __init__(self, front: Front) -> None:
        super().__init__(front)
        self._detour = self._skipped = 0  # requests that do not try the lane; those already done
        self._head_size = 0  # of the last head that was known

    # What the event loop calls.

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: into the body that is awaited, else into the shared window."""
        window = self._body.window
        return self.front.window if window is None else window

    def buffer_updated(self, size: int) -> None:
        """Take up bytes that arrived."""
        if self._body.window is not None:
            self._receive(size)
        elif self._discarding:
            pass
        elif self._reading:
            self._feed(self.front.window[:size])
        else:
            self._take(size)

    def check(self, now: float) -> None:
        """Called once a second: end what takes too long."""
        super().check(now)
        if self._reading and not (self._paused or self._discarding):
            limits = self.front.limits
            allowed = limits.header_seconds
            if self._current is not None:
                allowed = limits.body_seconds + self._body.size / limits.slowest
            if now - self._arrived > allowed:
                self._stop(RequestTimeout("the request did not arrive in time"))

    # Requests with known heads.

    def _take(self, size: int) -> None:
        """Requests from the window, of which the first byte is the first of a request."""
        front, window = self.front, self.front.window
        data = bytes(window[:size]) if size <= _AT_ONCE else front.buffer
        start = 0
        while start < size:
            # Heads of one client are equally long as a rule, and what is known is whole.
            end = start + self._head_size
            known = front.known.get(bytes(data[start:end])) if end <= size else None
            if known is None:
                end = data.find(b"\r\n\r\n", start, size) + 4
                if end < 4:
                    break
                head = bytes(data[start:end])
                known = front.known.get(head)
                if known is None:
                    self._unknown = head
                    break
                self._head_size = end - start
            if known.lane is not None and not start and end + known.length == size:
                if self._skipped < self._detour:
                    self._skipped += 1
                else:
                    whole = data if isinstance(data, bytes) else bytes(window[:size])
                    if self._take_express(known, whole, end):
                        return
            start = end + known.length
            if start > size:
                self._accept(known, window[end:size])  # the rest is still on its way
                return
            if known.gate is not None and self._turned_away(known, data, end):
                continue
            self._accept(known, bytes(window[end:start]))
            if self._discarding or self._reading:
                return
        if start < size:
            self._feed(front.window[start:size])
            self._unknown = b""

    def _take_express(self, known: KnownHead, data: bytes, end: int) -> bool:
        """Whether the express lane takes it: never a request behind another one."""
        front, size = self.front, len(data)
        if (
            self._exchanges
            or known.lane is None
            or front.in_flight + size > front.limits.in_flight
            or (lane := known.lane()) is None
            or not lane.take(self, known, data, end)
        ):
            # Who sends what does not fit will do so again: asking every time is wasted.
            self._detour = min(2 * self._detour + 1, _LONGEST_DETOUR)
            self._skipped = 0
            return False
        self._detour = 0
        front.in_flight += size
        front.requests += 1
        if self._passing is None:
            self._passing = Exchange(self, known.method, known.target, known.headers)
            self._passing.plain = True
        self._exchanges.append(self._passing)
        return True

    def _turned_away(self, known: KnownHead, data: bytes | bytearray, end: int) -> bool:
        """Whether it was refused unread; never behind another one that waits for its answer."""
        front, now = self.front, time.monotonic()
        if self._exchanges or front.draining or known.gate is None:
            return False
        answer = known.gate.refuse(data, end, end + known.text, now, front.heads)
        if answer is None:
            return False
        front.requests += 1
        self._transport.write(answer)
        self._last = now
        return True

    def _accept(self, known: KnownHead, body: bytes | memoryview) -> None:
        """A request with a known head; `body` is as much of it as is there, a view if not all."""
        front = self.front
        exchange = Exchange(self, known.method, known.target, known.headers)
        exchange.arrived = time.monotonic()
        exchange.plain = True
        exchange.match = known.match
        exchange.length = known.length
        exchange.body = body
        exchange.held = size = len(body)
        front.requests += 1
        front.in_flight += size
        exchanges = self._exchanges
        exchanges.append(exchange)
        if size == known.length and front.in_flight <= front.limits.in_flight:
            exchange.dispatch()
            if len(exchanges) >= front.limits.pipelined:
                self._pause()
            return
        exchange.body = b""
        self._body.size = size
        self._current = exchange
        self._reading = True
        self._arrived = exchange.arrived
        if front.in_flight > front.limits.in_flight:
            self._refuse(exchange, overloaded())
        else:
            self._body.add(body)
            self._await_body(exchange)
