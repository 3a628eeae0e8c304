"""Moments in which the event loop leaves the core to the workers."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from strop.serve.instance import rest

if TYPE_CHECKING:
    from strop.serve.admission import Admission

SECONDS = 0.002
"""Refusals that would follow each other faster than this are given in bursts."""
_SHARE = 0.05
"""Of the objective, which the loop rests at most: nothing is answered meanwhile."""


class Lull:
    """One for all gates: whoever asks for it, the loop rests once between two looks at its sockets.

    Attributes
    ----------
    last
        `time.monotonic()` seconds of the latest refusal, kept by the gates.
    coming
        Whether the loop is about to rest.
    """

    def __init__(self) -> None:
        self.last = -SECONDS
        self.coming = False

    def begin(self, admission: Admission, now: float) -> None:
        """Let requests gather before the sockets are looked at again.

        Otherwise nearly every one of them takes the core from the thread that computes, and finds
        the caches full of the model: what a refusal costs is mostly that.

        Parameters
        ----------
        admission
            Of who refuses: it is told how long requests may have waited in their sockets.
        now
            When the first of this round was read, in `time.monotonic()` seconds.
        """
        self.coming = True
        asyncio.get_running_loop().call_soon(self._rest, admission, now)

    def _rest(self, admission: Admission, since: float) -> None:
        self.coming = False
        rest(min(SECONDS, _SHARE * admission.slo))
        # The core may have come back much later than it was asked for.
        admission.unread(since, time.monotonic())
