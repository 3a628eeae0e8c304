"""Moments in which the event loop leaves the core to the workers."""

from __future__ import annotations

import asyncio

from strop.serve.instance import rest

SECONDS = 0.001
"""Refusals that would follow each other faster than this are given in bursts."""


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

    def begin(self) -> None:
        """Let requests gather before the sockets are looked at again.

        Otherwise nearly every one of them takes the core from the thread that computes, and finds
        the caches full of the model: what a refusal costs is mostly that.
        """
        self.coming = True
        asyncio.get_running_loop().call_soon(self._rest)

    def _rest(self) -> None:
        self.coming = False
        rest(SECONDS)
