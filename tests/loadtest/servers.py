"""A small server with a known service time, in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httptools

END = 60.0
"""Seconds after which something is broken rather than slow."""

METADATA = {
    "name": "m",
    "versions": ["1"],
    "platform": "test",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}],
}


@dataclass
class Behaviour:
    """How the server answers to an infer request; `answer` gives a status after its own wait."""

    answer: Callable[[Server], Awaitable[int]]
    metadata: dict[str, Any] = field(default_factory=lambda: dict(METADATA))
    index: list[dict[str, str]] = field(default_factory=lambda: [{"name": "m", "state": "READY"}])
    token: str | None = None


class Server:
    """Listens on `port` between `start` and `stop`; keeps every infer request's head and body."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.arrived: list[float] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def start(self) -> Server:
        self._thread.start()
        assert self._ready.wait(END)
        return self

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join(END)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        listening = await self.loop.create_server(lambda: _Protocol(self), "127.0.0.1", 0)
        self.port = listening.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        listening.close()


class _Protocol(asyncio.Protocol):
    def __init__(self, server: Server) -> None:
        self.server = server
        self.parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.headers: dict[str, str] = {}
        self.body = b""

    def on_url(self, url: bytes) -> None:
        self.url = url.decode()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.task = asyncio.get_running_loop().create_task(
            self._answer(self.url, self.headers, self.body)
        )

    async def _answer(self, url: str, headers: dict[str, str], body: bytes) -> None:
        server, behaviour = self.server, self.server.behaviour
        if behaviour.token and headers.get("authorization") != f"Bearer {behaviour.token}":
            return self._reply(401, {"error": "no token"})
        if url.endswith("/repository/index"):
            return self._reply(200, behaviour.index)
        if url.endswith("/v2/models/m"):
            return self._reply(200, behaviour.metadata)
        if not url.endswith(("/infer", "/predict")):
            return self._reply(404, {"error": "no such model"})
        server.requests.append((url, headers, body))
        server.arrived.append(time.perf_counter())
        server.in_flight += 1
        server.most_in_flight = max(server.most_in_flight, server.in_flight)
        status = await behaviour.answer(server)
        server.in_flight -= 1
        if status == 0:
            self.transport.abort()
        else:
            self._reply(status, {"outputs": []} if status == 200 else {"error": "as asked"})

    def _reply(self, status: int, values: Any) -> None:
        body = json.dumps(values).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)
