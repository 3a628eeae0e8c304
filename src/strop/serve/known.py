"""Heads of requests that came before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from strop.serve.codec import Limits
    from strop.serve.exchange import Exchange
    from strop.serve.express import Express
    from strop.serve.gate import Gate
    from strop.serve.http import Router
    from strop.serve.routes import Match

_REPEATED = frozenset(
    {
        b"accept-encoding",
        b"content-encoding",
        b"content-length",
        b"inference-header-content-length",
    }
)
_EXPRESS = frozenset({b"content-length"})
_KNOWN_HEADS = 4096  # of some 200 bytes each
_LONGEST_HEAD = 2 << 10  # bytes; clients may send longer ones, but not have them kept


@dataclass(frozen=True, slots=True)
class KnownHead:
    """The head of a request that was parsed and admitted once, for others with the same bytes.

    Clients repeat themselves: all that differs between two requests of one is the length of the
    body. Looking up the bytes of a whole head costs a tenth of parsing them again.

    Attributes
    ----------
    lane
        What finds the express lane whenever it is asked; None where these requests never take it.
    gate
        Where these requests may be refused unread; None where that cannot be.
    text
        How many bytes of the body, from its start, are JSON.
    """

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    match: Match
    length: int
    lane: Callable[[], Express | None] | None
    gate: Gate | None
    text: int


class KnownHeads(dict[bytes, KnownHead]):
    """Known heads by their bytes."""

    def remember(self, head: bytes, exchange: Exchange, router: Router, limits: Limits) -> None:
        """Note the head of a request that had nothing particular, for the next one like it."""
        length, match = exchange.length, exchange.match
        if (
            exchange.plain
            and exchange.refusal is None
            and length is not None
            and match is not None
            and match.access != "admin"
            and exchange.headers.keys() <= _REPEATED
            and head.startswith(exchange.method)
            and len(head) <= _LONGEST_HEAD
        ):
            if len(self) >= _KNOWN_HEADS:
                self.clear()
            express = (
                exchange.headers.keys() == _EXPRESS
                and length <= limits.json
                and limits.pipelined > 1
            )
            given = exchange.headers.get(b"inference-header-content-length", b"%d" % length)
            text = int(given) if given.isdigit() and len(given) < 12 else length
            seen = b"content-encoding" not in exchange.headers and text <= length
            self[head] = KnownHead(
                exchange.method,
                exchange.target,
                exchange.headers,
                match,
                length,
                router.lane(match) if express else None,
                router.gate(match) if seen else None,
                text,
            )
