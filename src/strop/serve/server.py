"""The process: fronts, models, signals, and a graceful end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import ssl
import time
from typing import TYPE_CHECKING, Any

from strop.errors import InputError, MissingExtra, StropError
from strop.serve.config import ServerConfig
from strop.serve.core import Core
from strop.serve.instance import still_computing
from strop.serve.logs import AccessLog, Log, records_in
from strop.serve.security import Guard, read_tokens, tls_context
from strop.serve.slices import take_short_turns
from strop.serve.watchdog import Watchdog

if TYPE_CHECKING:
    from strop.serve.grpc_front import GrpcFront
    from strop.serve.http import Front

_BACKLOG = 1024
_FLUSH_SECONDS = 1.0  # for errors to reach those whose requests the limit cut off


def serve(config: ServerConfig, *, log: Log | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code.

    Raises
    ------
    InputError
        When a port is taken, a file cannot be used, or a model cannot be loaded.
    """
    return _run(config, log or Log(), only_check=False)


def check(config: ServerConfig, *, log: Log | None = None) -> int:
    """Load and warm up every model, read every file, try the address, and serve nothing.

    Raises
    ------
    InputError
        Names the first thing that keeps the server from starting.
    """
    try:
        return _run(config, log or Log(), only_check=True)
    except InputError:
        raise
    except StropError as error:
        raise InputError(error.message, hint=error.hint) from None


class Server:
    """Fronts over one core, on the running loop.

    Attributes
    ----------
    ports
        Where each front listens: ``http``, ``grpc``, ``metrics``.
    """

    def __init__(self, config: ServerConfig, log: Log) -> None:
        from strop.serve.http import Front
        from strop.serve.routes import Routes

        self.config = config
        self.log = log
        self.ports: dict[str, int] = {}
        self._tls = tls_context(config.tls_cert, config.tls_key)
        self._guard = Guard(read_tokens(config.infer_token_file), read_tokens(config.token_file))
        self._began = time.monotonic()
        self._draining = False
        self.core = Core()
        self._access_log = AccessLog(log) if config.log_requests else None
        routes = Routes(self.core, self._guard, config.limits, log, live=self._live)
        self.front = Front(routes, config.limits, log, self._access_log)
        self._metrics_front: Front | None = None
        self._grpc: GrpcFront | None = None
        self._listeners: list[asyncio.Server] = []

    async def load(self) -> None:
        """Load every model; requests that come meanwhile are told to come back."""
        loads = [
            asyncio.ensure_future(self._load(name, settings))
            for name, settings in self.config.models.items()
        ]
        try:
            await asyncio.gather(*loads)
        finally:
            for load in loads:
                load.cancel()
        # What lives as long as the server need not be looked at by every full collection.
        gc.collect()
        gc.freeze()

    async def listen(self) -> None:
        """Open the ports.

        Raises
        ------
        InputError
            When a port cannot be had, or gRPC is asked for and not installed.
        """
        config = self.config
        scheme = "http" if self._tls is None else "https"
        if config.http is not None:
            self.ports["http"] = await self._open(self.front, config.http, self._tls)
            self.log.event("listening", url=f"{scheme}://{self._at('http')}")
        if config.grpc is not None and (front := self._grpc_front()) is not None:
            self._grpc = front
            self.ports["grpc"] = await front.start(config.host, config.grpc)
            self.log.event("listening-grpc", address=self._at("grpc"))
        if config.metrics is not None:
            from strop.serve.http import Front
            from strop.serve.metrics_routes import MetricsRoutes

            routes = MetricsRoutes(self.core)
            self._metrics_front = Front(routes, config.limits, self.log)
            self.ports["metrics"] = await self._open(self._metrics_front, config.metrics, None)
            self.log.event("listening-metrics", url=f"http://{self._at('metrics')}/metrics")

    async def could_listen(self) -> None:
        """Whether `listen` would be given its address; ports that are in use are none of this.

        Raises
        ------
        InputError
            When this machine has no such address.
        StropError
            When gRPC is asked for and not installed.
        """
        loop, host = asyncio.get_running_loop(), self.config.host
        try:
            (await loop.create_server(self.front.connect, host, 0)).close()
        except OSError as error:
            raise InputError(
                f"cannot listen on '{host}': {_reason(error)}", hint="choose another --host"
            ) from None
        if self.config.grpc is not None:
            self._grpc_front()

    async def drain(self) -> bool:
        """Refuse what is new, answer what was taken, close; whether all was answered in time."""
        limit = self.config.drain_seconds
        self._draining = True
        self.front.draining = True
        self.log.event("draining", limit_seconds=limit)
        end = time.monotonic() + limit
        answered = await self.core.drain(limit)
        if self._grpc is not None:
            await self._grpc.stop(max(_FLUSH_SECONDS, end - time.monotonic()))
        end = max(end, time.monotonic() + _FLUSH_SECONDS)
        while self.front.busy and time.monotonic() < end:
            await asyncio.sleep(0.01)
        answered = answered and not self.front.busy
        for listener in self._listeners:
            listener.close()
        for front in (self.front, self._metrics_front):
            if front is not None:
                front.close()
        await asyncio.sleep(0)
        if self._access_log is not None:
            self._access_log.close()
        self.log.event("stopped", answered=answered)
        return answered

    async def _load(self, name: str, settings: Any) -> None:
        began = time.monotonic()
        await self.core.repository.load(name, settings)
        for version in self.core.repository.versions(name):
            model = self.core.repository.model(name, version)
            self.log.event(
                "loaded",
                model=name,
                version=version,
                platform=model.platform,
                max_batch=model.limit,
                seconds=round(time.monotonic() - began, 3),
            )

    def _grpc_front(self) -> GrpcFront | None:
        try:
            from strop.serve.grpc_front import GrpcFront
        except ImportError as error:
            if self.config.grpc_required:
                raise MissingExtra(error.name or "grpcio", extra="serve") from None
            self.log.event("no-grpc", level="warning", reason="grpcio is not installed")
            return None
        return GrpcFront(self.core, self.config, self.log, self._access_log)

    def _at(self, front: str) -> str:
        host = self.config.host
        return f"[{host}]:{self.ports[front]}" if ":" in host else f"{host}:{self.ports[front]}"

    async def _open(self, front: Front, port: int, tls: ssl.SSLContext | None) -> int:
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(
                front.connect,
                self.config.host,
                port,
                ssl=tls,
                backlog=_BACKLOG,
                ssl_handshake_timeout=None if tls is None else self.config.limits.header_seconds,
            )
        except OSError as error:
            raise InputError(
                f"cannot listen on port {port} of '{self.config.host}': {_reason(error)}",
                hint="choose another port or --host",
            ) from None
        self._listeners.append(server)
        return int(server.sockets[0].getsockname()[1])

    def _live(self) -> dict[str, Any]:
        return {
            "uptime": time.monotonic() - self._began,
            "draining": self._draining,
            "connections": len(self.front.connections),
            "requests": self.front.requests,
            "in_flight_bytes": self.front.in_flight,
        }


def _run(config: ServerConfig, log: Log, *, only_check: bool) -> int:
    try:
        import httptools
        import orjson
        import uvloop
    except ImportError as error:
        raise MissingExtra(error.name or "uvloop", extra="serve") from None
    del httptools, orjson
    main = _check if only_check else _main
    with records_in(log), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main(config, log))


async def _check(config: ServerConfig, log: Log) -> int:
    server = Server(config, log)
    try:
        await server.could_listen()
        await server.load()
    finally:
        await server.core.drain(1.0)
    return 0


async def _main(config: ServerConfig, log: Log) -> int:
    watchdog = Watchdog(config.stuck_seconds, log, leave=config.exit_when_stuck)
    watchdog.start()
    try:
        return await _until_told_to_stop(config, log)
    finally:
        watchdog.stop()


async def _until_told_to_stop(config: ServerConfig, log: Log) -> int:
    loop = asyncio.get_running_loop()
    if any(model.slo is not None for model in config.models.values()):
        # A request that waits for the core in its socket spends its objective there.
        take_short_turns()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = Server(config, log)
    loading = asyncio.ensure_future(server.load())
    # Every model is known by name before the first connection: "not yet" is not "unknown".
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await server.listen()
        await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            log.event("ready", models=len(config.models))
            await stopping
    except BaseException:
        with contextlib.suppress(Exception):
            await server.core.drain(0.0)
        raise
    finally:
        loading.cancel()
        stopping.cancel()
    # A second signal does not wait, not even for threads that compute.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, os._exit, 1)
    if not await server.drain() or still_computing() or server.core.repository.opening():
        # Some thread is still computing what nobody waits for, or opens a model: the interpreter
        # would wait for it, or abort when it takes the thread's engine away.
        os._exit(0)
    return 0


def _reason(error: OSError) -> str:
    text = error.strerror or str(error)
    return text.rpartition(": ")[2] if "error while attempting" in text else text
