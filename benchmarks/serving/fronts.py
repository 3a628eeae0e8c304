"""What a request costs with other loops, parsers and readers of JSON than those of the server.

    python fronts.py

Both ends of 32 connections are in this process: the client writes 32 requests (64 floats as JSON),
then the loop runs until all are answered, and only the CPU time of that counts. Nothing is
computed; the answer is the first ten numbers. One thing at a time is exchanged against the first
row, rounds go over all rows in turn, and what is printed is the fastest tenth of the rounds, in µs
a request. What is not installed is left out.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import random
import socket
import time
from collections.abc import Callable
from typing import Any

CONNECTIONS, ROUNDS, TURNS = 32, 60, 3
DATA = [random.Random(number).gauss(0, 1) for number in range(64)]
BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": DATA}]}
).encode()
HEAD = (
    b"POST /v2/models/mlp/infer HTTP/1.1\r\nHost: localhost:8000\r\nUser-Agent: fronts\r\n"
    b"Accept: */*\r\nContent-Length: %d\r\n\r\n" % len(BODY)
)
HEADS = {HEAD: len(BODY)}


class HttpTools:
    """httptools: llhttp with callbacks."""

    def __init__(self, ask: Callable[[bytes], None]) -> None:
        import httptools

        self.ask, self.body = ask, b""
        self.feed = httptools.HttpRequestParser(self).feed_data

    def on_body(self, part: bytes) -> None:
        self.body += part

    def on_message_complete(self) -> None:
        body, self.body = self.body, b""
        self.ask(body)


class H11:
    """h11: a state machine in Python."""

    def __init__(self, ask: Callable[[bytes], None]) -> None:
        import h11

        self.h11, self.ask = h11, ask

    def feed(self, data: bytes) -> None:
        connection = self.h11.Connection(self.h11.SERVER)
        connection.receive_data(data)
        body = b""
        while not isinstance(event := connection.next_event(), self.h11.EndOfMessage):
            if isinstance(event, self.h11.Data):
                body += event.data
        self.ask(body)


class AioHttp:
    """aiohttp's parser: llhttp with messages."""

    def __init__(self, ask: Callable[[bytes], None]) -> None:
        from aiohttp.base_protocol import BaseProtocol
        from aiohttp.http_parser import HttpRequestParser

        loop = asyncio.get_running_loop()
        self.ask = ask
        self.parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16)

    def feed(self, data: bytes) -> None:
        messages, _, _ = self.parser.feed_data(data)
        for _, payload in messages:
            self.ask(payload.read_nowait())


class Known:
    """A head that came before is looked up as a whole, as `strop/serve/known.py` does."""

    def __init__(self, ask: Callable[[bytes], None]) -> None:
        self.ask = ask

    def feed(self, data: bytes) -> None:
        end = data.find(b"\r\n\r\n") + 4
        self.ask(data[end : end + HEADS[data[:end]]])


class Connection(asyncio.Protocol):
    def __init__(self, parser: Any, loads: Any, dumps: Any, answered: Callable[[], None]) -> None:
        self.loads, self.dumps, self.answered = loads, dumps, answered
        self.feed = parser(self.ask).feed

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.feed(data)

    def ask(self, body: bytes) -> None:
        data = self.loads(body)["inputs"][0]["data"][:10]
        output = {"name": "y", "datatype": "FP32", "shape": [1, 10], "data": data}
        text = self.dumps({"model_name": "mlp", "model_version": "1", "outputs": [output]})
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (len(text), text)
        )
        self.answered()


async def measure(parser: Any, loads: Any, dumps: Any) -> list[float]:
    """CPU seconds a request, of each round."""
    loop = asyncio.get_running_loop()
    left, over = 0, loop.create_future()

    def answered() -> None:
        nonlocal left
        left -= 1
        if not left:
            over.set_result(None)

    clients = []
    for _ in range(CONNECTIONS):
        here, there = socket.socketpair()
        there.setblocking(False)
        await loop.create_connection(lambda: Connection(parser, loads, dumps, answered), sock=there)
        clients.append(here)
    seconds = []
    for _ in range(ROUNDS):
        left, over = CONNECTIONS, loop.create_future()
        for client in clients:
            client.sendall(HEAD + BODY)
        begin = time.thread_time()
        await over
        seconds.append((time.thread_time() - begin) / CONNECTIONS)
        for client in clients:
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
    for client in clients:
        client.close()
    return seconds


def variants() -> dict[str, tuple[Any, Any, Any, Any]]:
    """Loop, parser, reader and writer of JSON, by name."""
    found = {name: _module(name) for name in ("uvloop", "orjson", "msgspec", "h11", "aiohttp")}
    uv, orjson, msgspec = found["uvloop"].new_event_loop, found["orjson"], found["msgspec"]
    made = {
        "uvloop, httptools, orjson": (uv, HttpTools, orjson.loads, orjson.dumps),
        "asyncio's own loop": (asyncio.new_event_loop, HttpTools, orjson.loads, orjson.dumps),
        "json of the library": (uv, HttpTools, json.loads, lambda it: json.dumps(it).encode()),
        "heads looked up": (uv, Known, orjson.loads, orjson.dumps),
    }
    if msgspec is not None:
        made["msgspec"] = (uv, HttpTools, msgspec.json.decode, msgspec.json.encode)
    if found["h11"] is not None:
        made["h11"] = (uv, H11, orjson.loads, orjson.dumps)
    if found["aiohttp"] is not None:
        made["aiohttp's parser"] = (uv, AioHttp, orjson.loads, orjson.dumps)
    return made


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in variants()}
    for _ in range(TURNS):
        for name, (loop, *parts) in variants().items():
            with asyncio.Runner(loop_factory=loop) as runner:
                seconds[name] += runner.run(measure(*parts))
    for name, found in seconds.items():
        fastest = sorted(found)[: len(found) // 10]
        print(f"{name:28} {1e6 * sum(fastest) / len(fastest):6.1f} µs")


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


if __name__ == "__main__":
    main()
