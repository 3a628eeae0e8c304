"""A bare event loop that parses a request and answers it, and does nothing else.

    python bare.py PORT [MODEL | refuse]

What any server on asyncio, uvloop, httptools and orjson pays before it has done anything: no
routes, no checks, no limits, no deadlines, no statistics. Without a model the answer is the first
ten numbers of the question. With one, what arrived in one round of the loop is computed as one
batch on the loop's own thread: the least that batching costs. With `refuse` nothing is even looked
at: whatever arrives is a request, and the answer is 503.
"""

from __future__ import annotations

import asyncio
import sys

import httptools
import numpy as np
import orjson
import uvloop


class Connection(asyncio.Protocol):
    def __init__(self, ask) -> None:
        self.ask = ask
        self.parser = httptools.HttpRequestParser(self)
        self.body = b""

    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.body = b""

    def on_body(self, part: bytes) -> None:
        self.body += part

    def on_message_complete(self) -> None:
        self.ask(self, orjson.loads(self.body)["inputs"][0]["data"])

    def answer(self, data) -> None:
        output = {"name": "y", "datatype": "FP32", "shape": [1, 10], "data": data}
        body = orjson.dumps(
            {"model_name": "mlp", "model_version": "1", "outputs": [output]},
            option=orjson.OPT_SERIALIZE_NUMPY,
        )
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )


class Batches:
    """Computes together what was asked in one round of the loop."""

    def __init__(self, path: str) -> None:
        from rivals.perceptron import session

        self.session = session(path)
        self.waiting: list[tuple[Connection, list[float]]] = []

    def ask(self, connection: Connection, data: list[float]) -> None:
        if not self.waiting:
            asyncio.get_running_loop().call_soon(self.compute)
        self.waiting.append((connection, data))

    def compute(self) -> None:
        waiting, self.waiting = self.waiting, []
        x = np.array([data for _, data in waiting], np.float32)
        (y,) = self.session.run(None, {"x": x})
        for (connection, _), row in zip(waiting, y, strict=True):
            connection.answer(row)


def echo(connection: Connection, data: list[float]) -> None:
    connection.answer(data[:10])


class Refusal(asyncio.BufferedProtocol):
    """The least that a refusal can cost on this loop: one read and one write."""

    window = memoryview(bytearray(1 << 18))
    answer = (
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
        b'Retry-After: 1\r\nContent-Length: 20\r\n\r\n{"error":"too busy"}'
    )

    def connection_made(self, transport) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.window

    def buffer_updated(self, size: int) -> None:
        self.transport.write(self.answer)


async def main(port: int, *model: str) -> None:
    loop = asyncio.get_running_loop()
    if model == ("refuse",):
        server = await loop.create_server(Refusal, "127.0.0.1", port)
    else:
        ask = Batches(*model).ask if model else echo
        server = await loop.create_server(lambda: Connection(ask), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), *sys.argv[2:]))
