"""The gRPC front: the Open Inference Protocol's service over the core."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal

import grpc
import grpc.aio

import strop
from strop.errors import InputError, StropError
from strop.serve.config import ServerConfig
from strop.serve.core import Core
from strop.serve.errors import BadRequest, ServeError, UnknownModel
from strop.serve.grpc_calls import (
    UNFORESEEN,
    compress_if_asked,
    parsed,
    refuse,
    told,
)
from strop.serve.grpc_codec import decode_request, encode_response, parameters_of
from strop.serve.grpc_health import Health
from strop.serve.grpc_log import CallLog
from strop.serve.logs import AccessLog, Log
from strop.serve.model import ServedModel
from strop.serve.names import check_name
from strop.serve.proto import SERVICE, message
from strop.serve.security import Guard, read_tokens, tls_context

_EXTENSIONS = ("model_configuration", "model_repository", "statistics")

Access = Literal["open", "infer", "admin"]


class Busy(ServeError):
    """The bodies of all requests in flight are as many bytes as this server takes."""

    status = 503
    grpc = "UNAVAILABLE"
    reason = "overload"


class GrpcFront:
    """Serves a core over gRPC on the running loop.

    Raises
    ------
    InputError
        When a token file, the certificate or its key cannot be used.
    """

    def __init__(
        self,
        core: Core,
        config: ServerConfig,
        log: Log | None = None,
        access_log: AccessLog | None = None,
    ) -> None:
        self._core = core
        self._log = log or Log()
        self._access_log = access_log
        self._limits = config.limits
        self._guard = Guard(read_tokens(config.infer_token_file), read_tokens(config.token_file))
        self._credentials = _credentials(config)
        self._health = Health(core, config.limits.connections)
        self._in_flight = 0
        self._readers: set[asyncio.Task[None]] = set()
        self._server: grpc.aio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, which for 0 is one that was free.

        Raises
        ------
        InputError
            When the port cannot be had.
        """
        self._server = server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", self._limits.body),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", self._limits.head),
                ("grpc.max_concurrent_streams", 1024),
                # Two servers on one port would each get a part of the requests.
                ("grpc.so_reuseport", 0),
            )
        )
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(SERVICE, self._handlers()),
                self._health.handler(),
            )
        )
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._credentials is None:
                bound = server.add_insecure_port(address)
            else:
                bound = server.add_secure_port(address, self._credentials)
        except RuntimeError:
            bound = 0
        if not bound:
            raise InputError(
                f"cannot listen on port {port} of '{host}' for gRPC",
                hint="choose another port or --host",
            )
        await server.start()
        return int(bound)

    async def stop(self, grace: float) -> None:
        """Take no new calls; those open have `grace` seconds, streams end after their answers."""
        self._health.stop()
        for reader in self._readers:
            reader.cancel()
        if self._server is not None:
            await self._server.stop(grace)

    @property
    def in_flight(self) -> int:
        """Bytes of the requests that are being answered."""
        return self._in_flight

    # Inference.

    async def _infer(self, request: Any, context: Any) -> Any:
        return await self._answer(request, time.monotonic(), context.time_remaining())

    async def _answer(self, request: Any, arrived: float, remaining: float | None) -> Any:
        size = request.ByteSize()
        try:
            if self._in_flight and self._in_flight + size > self._limits.in_flight:
                raise Busy("the requests in flight are too large together", retry_after=0.1)
            decoded = decode_request(request, arrived, remaining, self._limits)
        except ServeError as error:
            self._core.note(error)
            raise
        self._in_flight += size
        try:
            # Cancelling the call cancels this, which takes the request back.
            return encode_response(await self._core.infer(decoded))
        finally:
            self._in_flight -= size

    async def _stream(self, requests: Any, context: Any, note: CallLog) -> AsyncIterator[Any]:
        """Answers in the order of the requests, which are computed together meanwhile."""
        self._admit(context, "infer")
        await compress_if_asked(context)
        answers: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue()
        # The reader runs ahead of the writer, but not without a bound.
        room = asyncio.Semaphore(self._limits.pipelined)
        tasks: set[asyncio.Task[Any]] = set()

        async def read() -> None:
            try:
                async for data in requests:
                    await room.acquire()
                    request = parsed(message("ModelInferRequest"), data, self._limits.json)
                    task = asyncio.create_task(
                        self._stream_answer(request, len(data), context, note)
                    )
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                    answers.put_nowait(task)
            finally:
                answers.put_nowait(None)

        reader = asyncio.create_task(read())
        self._readers.add(reader)
        try:
            while (task := await answers.get()) is not None:
                yield await task
                room.release()
            await asyncio.wait((reader,))
            if not reader.cancelled():
                reader.result()
        finally:
            self._readers.discard(reader)
            for open_task in (reader, *tasks):
                open_task.cancel()

    async def _stream_answer(self, request: Any, size: int, context: Any, note: CallLog) -> Any:
        response, arrived = message("ModelStreamInferResponse"), time.monotonic()
        try:
            found = await self._answer(request, arrived, context.time_remaining())
        except ServeError as error:
            note.answered(error.grpc, request, size, began=arrived)
            failed = response(error_message=told(error))
            failed.infer_response.id = request.id
            return failed
        except Exception as error:
            note.fault(error)
            note.answered("INTERNAL", request, size, began=arrived)
            failed = response(error_message=UNFORESEEN)
            failed.infer_response.id = request.id
            return failed
        note.answered("OK", request, size, found, arrived)
        if request.parameters["triton_enable_empty_final_response"].bool_param:
            found.parameters["triton_final_response"].bool_param = True
        return response(infer_response=found)

    # Health, and what there is.

    async def _live(self, request: Any, context: Any) -> Any:
        return message("ServerLiveResponse")(live=self._core.live())

    async def _ready(self, request: Any, context: Any) -> Any:
        return message("ServerReadyResponse")(ready=self._core.ready())

    async def _model_ready(self, request: Any, context: Any) -> Any:
        check_name(request.name)
        repository = self._core.repository
        if request.name not in {state.name for state in repository.index()}:
            raise UnknownModel(f"there is no model '{request.name}'")
        return message("ModelReadyResponse")(ready=repository.ready(request.name, request.version))

    async def _server_metadata(self, request: Any, context: Any) -> Any:
        return message("ServerMetadataResponse")(
            name="strop", version=strop.__version__, extensions=_EXTENSIONS
        )

    async def _metadata(self, request: Any, context: Any) -> Any:
        model = self._model(request)
        return message("ModelMetadataResponse")(
            name=model.name,
            versions=self._core.repository.versions(model.name),
            platform=model.platform,
            inputs=[info._asdict() for info in model.inputs],
            outputs=[info._asdict() for info in model.outputs],
        )

    async def _config(self, request: Any, context: Any) -> Any:
        from google.protobuf.json_format import ParseDict

        response = message("ModelConfigResponse")()
        ParseDict(self._model(request).config(), response.config, ignore_unknown_fields=True)
        return response

    async def _statistics(self, request: Any, context: Any) -> Any:
        from google.protobuf.json_format import ParseDict

        models = self._core.repository.models()
        if request.name:
            asked = self._model(request)
            models = [
                model
                for model in models
                if model.name == asked.name and (not request.version or model is asked)
            ]
        entries = [
            {"name": it.name, "version": it.version, **it.statistics.to_dict()} for it in models
        ]
        return ParseDict({"model_stats": entries}, message("ModelStatisticsResponse")())

    def _model(self, request: Any) -> ServedModel:
        check_name(request.name)
        return self._core.repository.model(request.name, request.version)

    # The repository.

    async def _index(self, request: Any, context: Any) -> Any:
        return message("RepositoryIndexResponse")(
            models=[
                state._asdict()
                for state in self._core.repository.index()
                if state.state == "READY" or not request.ready
            ]
        )

    async def _load(self, request: Any, context: Any) -> Any:
        check_name(request.model_name)
        if parameters_of(request.parameters):
            raise BadRequest("a model is loaded as it was configured, without parameters")
        began = time.monotonic()
        try:
            # A client that goes away must not leave a model half loaded.
            await asyncio.shield(self._core.repository.load(request.model_name))
        except ServeError:
            raise
        except StropError as error:
            self._log.event(
                "load-failed", level="error", model=request.model_name, reason=str(error)
            )
            raise ServeError(
                f"the model '{request.model_name}' cannot be loaded; the server's log says why"
            ) from None
        self._log.event(
            "loaded", model=request.model_name, seconds=round(time.monotonic() - began, 3)
        )
        return message("RepositoryModelLoadResponse")()

    async def _unload(self, request: Any, context: Any) -> Any:
        check_name(request.model_name)
        await asyncio.shield(self._core.repository.unload(request.model_name))
        self._log.event("unloaded", model=request.model_name)
        return message("RepositoryModelUnloadResponse")()

    # Plumbing.

    def _handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        calls: dict[str, tuple[Callable[[Any, Any], Awaitable[Any]], Access]] = {
            "ServerLive": (self._live, "open"),
            "ServerReady": (self._ready, "open"),
            "ModelReady": (self._model_ready, "open"),
            "ServerMetadata": (self._server_metadata, "infer"),
            "ModelMetadata": (self._metadata, "infer"),
            "ModelInfer": (self._infer, "infer"),
            "ModelConfig": (self._config, "infer"),
            "ModelStatistics": (self._statistics, "infer"),
            "RepositoryIndex": (self._index, "infer"),
            "RepositoryModelLoad": (self._load, "admin"),
            "RepositoryModelUnload": (self._unload, "admin"),
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._guarded(name, call, access),
                response_serializer=message(f"{name}Response").SerializeToString,
            )
            for name, (call, access) in calls.items()
        }
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._guarded_stream,
            response_serializer=message("ModelStreamInferResponse").SerializeToString,
        )
        return handlers

    def _guarded(
        self, name: str, call: Callable[[Any, Any], Awaitable[Any]], access: Access
    ) -> Callable[[bytes, Any], Awaitable[Any]]:
        kind, target = message(f"{name}Request"), f"/{SERVICE}/{name}"

        async def guarded(data: bytes, context: Any) -> Any:
            note, request = CallLog(context, target, self._access_log), None
            try:
                self._admit(context, access)
                request = parsed(kind, data, self._limits.json)
                answer = await call(request, context)
                await compress_if_asked(context)
                note.answered("OK", request, len(data), answer)
                return answer
            except ServeError as error:
                note.answered(error.grpc, request, len(data))
                await refuse(context, error)
            except Exception as error:
                note.fault(error)
                note.answered("INTERNAL", request, len(data))
                await context.abort(
                    grpc.StatusCode.INTERNAL, UNFORESEEN, context.trailing_metadata()
                )

        return guarded

    async def _guarded_stream(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        note = CallLog(context, f"/{SERVICE}/ModelStreamInfer", self._access_log)
        try:
            async for response in self._stream(requests, context, note):
                yield response
        except ServeError as error:
            note.answered(error.grpc)
            await refuse(context, error)
        except Exception as error:
            note.fault(error)
            note.answered("INTERNAL")
            await context.abort(grpc.StatusCode.INTERNAL, UNFORESEEN, context.trailing_metadata())

    def _admit(self, context: Any, access: Access) -> None:
        if access == "open" or (access == "infer" and self._guard.infer_is_open):
            return
        sent = dict(context.invocation_metadata() or ()).get("authorization")
        if access == "infer":
            self._guard.check_infer(sent)
        else:
            self._guard.check_admin(sent)


def _credentials(config: ServerConfig) -> Any:
    if tls_context(config.tls_cert, config.tls_key) is None:  # says what is wrong with the files
        return None
    assert config.tls_cert is not None
    assert config.tls_key is not None
    pair = (config.tls_key.read_bytes(), config.tls_cert.read_bytes())
    return grpc.ssl_server_credentials([pair])
