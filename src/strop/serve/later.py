"""Answers that take time: on tasks of their own, of which none is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from strop.serve.errors import ServeError
from strop.serve.exchange import Exchange


class Later:
    """Runs the coroutines that answer requests; whatever one raises is the answer."""

    def __init__(self) -> None:
        # The loop itself only holds tasks weakly.
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
        """Begin `work`, which answers `exchange`."""
        task = asyncio.get_running_loop().create_task(_settle(exchange, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _settle(exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except ServeError as error:
        exchange.fail(error)
    except Exception as error:
        exchange.fail_unexpectedly(error)
