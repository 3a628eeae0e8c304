"""Refusals by the head of a request alone, for the moments in which every one would be refused.

Ten times the load that a model can take is nine refusals for every answer, and where the model is
cheap they cost more than its computations. So a refusal is not worked out anew each time: the
batcher says until when it would refuse whatever comes (`Batcher.refusing_until`, which any change
that could let a request in takes back), and until then requests with a known head get their
answer, the same bytes as in the ordinary way, before their body is looked at.

Bodies are searched for the words that could make a difference, and for escapes, in which such a
word might hide; one that has any goes the ordinary way. What the gate cannot see is whether a body
is valid: one that would be 400 is 503 while the model is too busy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from strop.serve.errors import Overloaded, ServeError, too_busy
from strop.serve.lull import SECONDS, Lull

if TYPE_CHECKING:
    from strop.serve.batcher import Batcher
    from strop.serve.core import Core
    from strop.serve.exchange import Heads

_PARTICULAR = (b'"priority"', b'"timeout"', b"\\")
_REMEMBERED = 1024  # bytes of JSON beside binary tensors, which a client hardly ever changes


class Gate:
    """Where requests for one model and version are turned away; found by a known head."""

    def __init__(self, core: Core, model: str, version: str, lull: Lull) -> None:
        self._core = core
        self._model = model
        self._version = version
        self._body = orjson.dumps({"error": str(too_busy(model, 1.0))})
        self._lull = lull
        self._plain = b"\0"  # the last JSON with nothing particular
        self._head = self._answer = b""  # the last answer, and what it began with
        self._wait = 0  # milliseconds that it named

    def refuse(
        self, data: bytes | bytearray, begin: int, end: int, arrived: float, heads: Heads
    ) -> bytes | None:
        """The answer to a request that is refused whatever it holds; None where it is not.

        Parameters
        ----------
        begin, end
            Where in `data` the JSON of the body lies.
        arrived
            `time.monotonic()` when it was read.
        """
        batcher = self._busy(arrived)
        if batcher is None:
            return None
        if not (data.startswith(self._plain, begin) and begin + len(self._plain) == end):
            for word in _PARTICULAR:
                if data.find(word, begin, end) >= 0:
                    return None
            if end - begin <= _REMEMBERED:
                self._plain = bytes(data[begin:end])
        batcher.model.statistics.refuse(Overloaded.reason)
        lull = self._lull
        if arrived - lull.last < SECONDS and not lull.coming and not batcher.model.inline:
            lull.begin(batcher.admission, arrived)
        lull.last = arrived
        wait = -int((arrived - batcher.refusing_until) * 1000 // 1)
        if wait != self._wait or heads.busy is not self._head:
            self._wait, self._head, body = wait, heads.busy, self._body
            self._answer = b"%b%d\r\nRetry-After: %d\r\nRetry-After-Ms: %d\r\n\r\n%b" % (
                heads.busy,
                len(body),
                -(-wait // 1000),
                wait,
                body,
            )
        return self._answer

    def _busy(self, arrived: float) -> Batcher | None:
        """The batcher, if it would refuse."""
        try:
            batcher = self._core.repository.batcher(self._model, self._version)
        except ServeError:
            return None
        if arrived < batcher.refusing_until and not self._core.draining:
            return batcher
        return None
