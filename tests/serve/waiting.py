"""Waiting for what is to become so.

A busy machine may run any thread late, so tests wait for conditions and not for a span of time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

END = 60.0
"""Seconds after which something is broken rather than slow."""


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until `condition` holds."""
    end = time.monotonic() + END
    while not condition():
        assert time.monotonic() < end, "it never became so"
        await asyncio.sleep(0.001)


def wait_until(condition: Callable[[], object]) -> None:
    """As `until`, where there is no loop: for what happens on threads or in other processes."""
    end = time.monotonic() + END
    while not condition():
        assert time.monotonic() < end, "it never became so"
        time.sleep(0.01)
