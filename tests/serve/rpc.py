"""A gRPC front in this process, and a client that can send anything."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from strop.serve.batcher import Batcher
from strop.serve.config import ServerConfig
from strop.serve.core import Core
from strop.serve.grpc_front import GrpcFront
from strop.serve.logs import AccessLog, Log
from strop.serve.proto import SERVICE, message
from strop.serve.settings import ModelSettings

from . import fakes
from .waiting import END, until

Code = grpc.StatusCode
X = np.arange(8, dtype=np.float32).reshape(2, 4)


class Client:
    """Calls by name, on a channel of its own."""

    def __init__(self, address: str, credentials: Any = None, **options: Any) -> None:
        self.address = address
        if credentials is None:
            self.channel = grpc.aio.insecure_channel(address, **options)
        else:
            self.channel = grpc.aio.secure_channel(address, credentials, **options)

    def call(self, name: str, request: Any = None, **options: Any) -> Any:
        made = self.channel.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=_bytes,
            response_deserializer=message(f"{name}Response").FromString,
        )
        return made(message(f"{name}Request")() if request is None else request, **options)

    def stream(self, requests: Any, **options: Any) -> Any:
        made = self.channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            request_serializer=_bytes,
            response_deserializer=message("ModelStreamInferResponse").FromString,
        )
        return made(requests, **options)

    async def refused(self, name: str, request: Any, **options: Any) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(name, request, **options)
        found: grpc.aio.AioRpcError = caught.value
        return found


def _bytes(request: Any) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()


def run(
    tmp_path: Path,
    body: Callable[[Client, Core], Awaitable[None]],
    *,
    credentials: Any = None,
    channel: dict[str, Any] | None = None,
    log: Log | None = None,
    **config: Any,
) -> None:
    """Serve ``y = 2 x`` as ``affine`` in this process, and let `body` ask it.

    Requests are logged where a `log` is given.
    """

    async def main() -> None:
        core = Core()
        path = fakes.scaling(tmp_path / "affine.onnx")
        settings = ModelSettings(path=path, threads=1)
        await core.repository.load("affine", settings)
        access_log = None if log is None else AccessLog(log)
        front = GrpcFront(
            core, ServerConfig(models={"affine": settings}, **config), log, access_log
        )
        port = await front.start("127.0.0.1", 0)
        client = Client(f"localhost:{port}", credentials, **(channel or {}))
        try:
            await asyncio.wait_for(body(client, core), 2 * END)
            await until(lambda: front.in_flight == 0)
        finally:
            await client.channel.close()
            await core.drain(1.0)
            await front.stop(0.5)
            if access_log is not None:
                access_log.close()

    asyncio.run(main())


def raw(array: np.ndarray = X, datatype: str = "FP32", **fields: Any) -> Any:
    request = message("ModelInferRequest")(model_name="affine", **fields)
    request.inputs.add(name="x", datatype=datatype, shape=array.shape)
    request.raw_input_contents.append(array.tobytes())
    return request


def typed(**contents: Any) -> Any:
    request = message("ModelInferRequest")(model_name="affine")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4], contents=contents)
    return request


def output(response: Any) -> np.ndarray:
    (described,) = response.outputs
    assert described.datatype == "FP32"
    return np.frombuffer(response.raw_output_contents[0], "<f4").reshape(described.shape)


@contextlib.asynccontextmanager
async def counting(client: Client) -> AsyncIterator[tuple[Client, list[int]]]:
    """A second client of the same server, and the sizes of all that the server sends to it."""
    host, _, port = client.address.partition(":")
    sizes: list[int] = []
    pumps: list[asyncio.Task[None]] = []

    async def pump(source: asyncio.StreamReader, to: asyncio.StreamWriter, count: bool) -> None:
        try:
            while piece := await source.read(1 << 16):
                if count:
                    sizes.append(len(piece))
                to.write(piece)
        finally:
            to.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other, out = await asyncio.open_connection(host, int(port))
        pumps.append(asyncio.create_task(pump(reader, out, count=False)))
        pumps.append(asyncio.create_task(pump(other, writer, count=True)))

    listener = await asyncio.start_server(relay, "127.0.0.1", 0)
    own = Client(f"127.0.0.1:{listener.sockets[0].getsockname()[1]}")
    try:
        yield own, sizes
    finally:
        await own.channel.close()
        listener.close()
        for task in pumps:  # grpc may keep its connection
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        await asyncio.sleep(0)


def put_behind(core: Core, session: Any, **settings: Any) -> Batcher:
    """Let a session made by hand answer for ``affine``."""
    batcher = Batcher(fakes.served(session, max_batch=1, **settings), core.loop)
    entry = core.repository._entries["affine"]
    entry.batchers["1"] = entry.newest = batcher
    return batcher


async def outcome(client: Client) -> Any:
    """The answer to a row, or the error."""
    try:
        return await client.call("ModelInfer", raw(X[:1]))
    except grpc.aio.AioRpcError as error:
        return error
