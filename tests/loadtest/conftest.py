from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from .servers import Behaviour, Server

Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers that wait for `seconds` and then answer with `status`."""
    running = []

    def start(
        answer: Callable[[Server], Awaitable[int]] | None = None,
        *,
        seconds: float = 0.0,
        status: int = 200,
        **behaviour: Any,
    ) -> Server:
        async def plainly(server: Server) -> int:
            await asyncio.sleep(seconds)
            return status

        running.append(Server(Behaviour(answer or plainly, **behaviour)).start())
        return running[-1]

    yield start
    for server in running:
        server.stop()
