"""The standard health service, as probes and load balancers ask it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from strop.serve.codec import Limits
from strop.serve.core import Core
from strop.serve.proto import HEALTH, SERVICE, message
from strop.serve.settings import ModelSettings

from . import fakes
from .rpc import Client, Code, raw, run
from .waiting import END, until

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3


def kind(name: str) -> Any:
    return message(name, "grpc.health.v1")


def check(client: Client, service: str = "") -> Any:
    made = client.channel.unary_unary(
        f"/{HEALTH}/Check",
        request_serializer=kind("HealthCheckRequest").SerializeToString,
        response_deserializer=kind("HealthCheckResponse").FromString,
    )
    return made(kind("HealthCheckRequest")(service=service))


def watch(client: Client, service: str = "") -> Any:
    made = client.channel.unary_stream(
        f"/{HEALTH}/Watch",
        request_serializer=kind("HealthCheckRequest").SerializeToString,
        response_deserializer=kind("HealthCheckResponse").FromString,
    )
    return made(kind("HealthCheckRequest")(service=service))


async def status(client: Client, service: str = "") -> int:
    return int((await check(client, service)).status)


def test_server_models_and_the_process_itself(tmp_path: Path) -> None:
    async def body(client: Client, core: Core) -> None:
        for service in ("", SERVICE, HEALTH, "affine"):
            assert await status(client, service) == SERVING
        for service in ("absent", "../x", "\0", "grpc.health.v1"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await check(client, service)
            assert caught.value.code() == Code.NOT_FOUND
        # Not being able to load one model is a reason to send requests elsewhere.
        core.repository._entries["affine"].newest.closing = True  # type: ignore[union-attr]
        assert await status(client) == await status(client, "affine") == NOT_SERVING
        core.repository._entries["affine"].newest.closing = False  # type: ignore[union-attr]
        # One that was unloaded on purpose is none.
        await core.repository.unload("affine")
        assert await status(client) == SERVING
        assert await status(client, "affine") == NOT_SERVING
        draining = asyncio.ensure_future(core.drain(END))
        await until(lambda: not core.ready())
        assert await status(client) == await status(client, SERVICE) == NOT_SERVING
        assert await status(client, HEALTH) == SERVING
        assert await draining

    run(tmp_path, body)


def test_what_is_watched_is_told_when_it_changes(tmp_path: Path) -> None:
    async def body(client: Client, core: Core) -> None:
        server, model, coming = (watch(client, service) for service in ("", "affine", "later"))
        assert (await server.read()).status == SERVING
        assert (await model.read()).status == SERVING
        assert (await coming.read()).status == SERVICE_UNKNOWN
        await core.repository.unload("affine")
        assert (await model.read()).status == NOT_SERVING
        await core.repository.load("affine")
        assert (await model.read()).status == SERVING
        path = fakes.scaling(tmp_path / "later.onnx")
        await core.repository.load("later", ModelSettings(path=path, threads=1))
        found = (await coming.read()).status
        assert found == SERVING or (found, (await coming.read()).status) == (NOT_SERVING, SERVING)
        for call in (server, model, coming):
            call.cancel()

    run(tmp_path, body)


def test_the_end_is_told_and_does_not_wait_for_those_who_watch(tmp_path: Path) -> None:
    from strop.serve.config import ServerConfig
    from strop.serve.grpc_front import GrpcFront

    async def main() -> None:
        core = Core()
        settings = ModelSettings(path=fakes.scaling(tmp_path / "affine.onnx"), threads=1)
        await core.repository.load("affine", settings)
        front = GrpcFront(core, ServerConfig(models={"affine": settings}))
        client = Client(f"127.0.0.1:{await front.start('127.0.0.1', 0)}")
        call = watch(client)
        assert (await call.read()).status == SERVING
        await core.drain(END)
        await front.stop(END)
        assert (await call.read()).status == NOT_SERVING
        assert await call.read() is grpc.aio.EOF
        assert await call.code() == Code.OK
        await client.channel.close()

    asyncio.run(main())


def test_it_is_open_where_all_else_needs_a_token(tmp_path: Path) -> None:
    (tmp_path / "infer").write_text("token-of-a-client\n")

    async def body(client: Client, core: Core) -> None:
        assert await status(client) == SERVING
        assert (await client.refused("ModelInfer", raw())).code() == Code.UNAUTHENTICATED

    run(tmp_path, body, infer_token_file=tmp_path / "infer")


def test_those_who_watch_are_counted_and_those_who_left_are_not(tmp_path: Path) -> None:
    async def body(client: Client, core: Core) -> None:
        calls = [watch(client) for _ in range(3)]
        for call in calls:
            assert (await call.read()).status == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watch(client).read()
        assert caught.value.code() == Code.RESOURCE_EXHAUSTED
        for call in calls:
            call.cancel()
        while True:  # until the server has noticed
            try:
                again = watch(client)
                assert (await again.read()).status == SERVING
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)
            else:
                again.cancel()
                return

    run(tmp_path, body, limits=Limits(connections=3))


def test_messages_that_are_none(tmp_path: Path) -> None:
    async def body(client: Client, core: Core) -> None:
        for method in ("Check", "Watch"):
            call = client.channel.unary_unary(f"/{HEALTH}/{method}")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"\xff\xff")
            assert caught.value.code() == Code.INVALID_ARGUMENT
            assert caught.value.details() == "the message is no HealthCheckRequest"

    run(tmp_path, body)
