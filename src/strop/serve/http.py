"""The HTTP/1.1 front: what all connections share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from strop.serve.body import PART
from strop.serve.codec import Limits
from strop.serve.connection import Connection
from strop.serve.exchange import Exchange, Heads
from strop.serve.known import KnownHeads
from strop.serve.outgoing import Outgoing

if TYPE_CHECKING:
    from strop.serve.express import Express
    from strop.serve.gate import Gate
    from strop.serve.logs import AccessLog, Log
    from strop.serve.routes import Match

_WINDOW = 64 << 10


class Router(Protocol):
    """Finds and runs what answers a request."""

    def match(self, target: bytes) -> Match:
        """What answers this request target, or a :class:`ServeError`."""

    def admit(self, exchange: Exchange, match: Match) -> None:
        """Raise :class:`ServeError` where headers alone say that the request is refused."""

    def dispatch(self, exchange: Exchange, match: Match) -> None:
        """Answer a request that is complete, now or later."""

    def lane(self, match: Match) -> Callable[[], Express | None] | None:
        """What finds the express lane to a model whenever it is asked, for paths of inference."""

    def gate(self, match: Match) -> Gate | None:
        """Where requests are refused while their model is too busy, for paths of inference."""


class Front:
    """What all connections share.

    Attributes
    ----------
    in_flight
        Bytes of the bodies that are being received or answered.
    requests
        How many were read.
    turned_away
        Connections beyond the limit whose clients are told so.
    draining
        Whether connections are closed as soon as what they asked is answered.
    part
        Bytes of a large body that the kernel may gather: what a client at the slowest rate allowed
        sends before it would be taken for one that stopped.
    """

    def __init__(
        self, router: Router, limits: Limits, log: Log, access_log: AccessLog | None = None
    ) -> None:
        self.router = router
        self.limits = limits
        self.log = log
        self.access_log = access_log
        self.heads = Heads()
        self.connections: set[Outgoing] = set()
        self.in_flight = 0
        self.turned_away = 0
        self.requests = 0
        self.draining = False
        self.part = int(min(PART, limits.slowest * limits.body_seconds)) or 1
        self.known = KnownHeads()
        self.buffer = bytearray(_WINDOW)
        self.window = memoryview(self.buffer)
        self._sweeper: asyncio.TimerHandle | None = None

    def connect(self) -> Connection:
        """The protocol of a new connection."""
        if self._sweeper is None:
            self._sweep()
        return Connection(self)

    @property
    def busy(self) -> bool:
        """Whether any request waits for its answer, or any answer for its reader."""
        return any(connection.busy for connection in self.connections)

    def close(self) -> None:
        """Close all that is open."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for connection in list(self.connections):
            connection.close()

    def _sweep(self) -> None:
        """Once a second, instead of timers for every request."""
        self._sweeper = asyncio.get_running_loop().call_later(1.0, self._sweep)
        self.heads.refresh()
        now = time.monotonic()
        for connection in list(self.connections):
            connection.check(now)
