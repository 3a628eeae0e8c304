"""gRPC's standard health service, for probes and load balancers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from strop.serve.core import Core
from strop.serve.errors import ServeError, UnknownModel
from strop.serve.grpc_calls import parsed, refuse
from strop.serve.proto import HEALTH, SERVICE, message

_PACKAGE = HEALTH.rpartition(".")[0]
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3
_LOOK_SECONDS = 0.25
_LONGEST_QUESTION = 64 << 10  # bytes


class TooManyWatch(ServeError):
    """More calls watch already than this server allows."""

    status = 503
    grpc = "RESOURCE_EXHAUSTED"
    reason = "overload"


class Health:
    """Answers ``grpc.health.v1.Health``, open to everybody.

    A service is ``""`` or the inference service for the server as a whole (serving when every
    model is ready and it stays), a model's name, or this service itself, which is serving as long
    as the process answers.

    Parameters
    ----------
    most
        Calls that may watch at once.
    """

    def __init__(self, core: Core, most: int) -> None:
        self._core = core
        self._most = most
        self._watching = 0
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End the calls that watch, which may otherwise stay open forever."""
        self._stopping.set()

    def handler(self) -> grpc.GenericRpcHandler:
        """What a gRPC server is given."""
        serialize = message("HealthCheckResponse", _PACKAGE).SerializeToString
        return grpc.method_handlers_generic_handler(
            HEALTH,
            {
                "Check": grpc.unary_unary_rpc_method_handler(
                    self._check, response_serializer=serialize
                ),
                "Watch": grpc.unary_stream_rpc_method_handler(
                    self._watch, response_serializer=serialize
                ),
            },
        )

    async def _check(self, data: bytes, context: Any) -> Any:
        try:
            status = self._status(_service(data))
            if status == _SERVICE_UNKNOWN:
                raise UnknownModel("there is no service or model of that name")
            return _answer(status)
        except ServeError as error:
            await refuse(context, error)

    async def _watch(self, data: bytes, context: Any) -> AsyncIterator[Any]:
        try:
            service = _service(data)
            if self._watching >= self._most:
                raise TooManyWatch("too many calls watch already")
        except ServeError as error:
            await refuse(context, error)
            return
        self._watching += 1
        try:
            told = None
            while True:
                last = self._stopping.is_set()
                status = _NOT_SERVING if last else self._status(service)
                if status != told:
                    told = status
                    yield _answer(status)
                if last:
                    return
                await self._look_again()
        finally:
            self._watching -= 1

    async def _look_again(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), _LOOK_SECONDS)

    def _status(self, service: str) -> int:
        if service == HEALTH:
            return _SERVING
        repository = self._core.repository
        if service in ("", SERVICE):
            serving = self._core.ready()
        elif any(state.name == service for state in repository.index()):
            serving = repository.ready(service)
        else:
            return _SERVICE_UNKNOWN
        return _SERVING if serving else _NOT_SERVING


def _service(data: bytes) -> str:
    return str(parsed(message("HealthCheckRequest", _PACKAGE), data, _LONGEST_QUESTION).service)


def _answer(status: int) -> Any:
    return message("HealthCheckResponse", _PACKAGE)(status=status)
