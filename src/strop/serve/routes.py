"""Which path is answered by what."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote_to_bytes

import httptools

import strop
from strop.errors import StropError
from strop.serve.codec import Limits
from strop.serve.codec.json_codec import parse
from strop.serve.core import Core
from strop.serve.errors import (
    BadRequest,
    MethodNotAllowed,
    NotFound,
    NotOffered,
    ServeError,
    TooLarge,
    UnknownModel,
)
from strop.serve.exchange import Exchange
from strop.serve.express import Express
from strop.serve.gate import Gate
from strop.serve.inference import Inference
from strop.serve.later import Later
from strop.serve.logs import Log
from strop.serve.lull import Lull
from strop.serve.metrics import metrics_text
from strop.serve.model import ServedModel
from strop.serve.names import check_name
from strop.serve.openapi import openapi
from strop.serve.overview import overview
from strop.serve.page import page
from strop.serve.security import Guard

GET = frozenset({b"GET", b"HEAD"})

_POST = frozenset({b"POST"})
_QUESTION = 64 << 10  # bytes of a body that holds no tensors
_REMEMBERED = 1024  # request targets whose route is remembered
_LONGEST = 512  # bytes of one that is
_EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")
_NOT_OFFERED = frozenset(
    {"systemsharedmemory", "cudasharedmemory", "trace", "logging", "generate", "generate_stream"}
)

Access = Literal["open", "infer", "admin"]


class Match(NamedTuple):
    """What answers a path, and who may ask it."""

    handler: Callable[[Exchange, Match], None]
    methods: frozenset[bytes]
    access: Access
    model: str = ""
    version: str = ""


class Routes:
    """The paths of the Open Inference Protocol and a few of this server's own.

    Parameters
    ----------
    live
        Figures of the process for the page, and whether it is ``draining``.
    """

    def __init__(
        self,
        core: Core,
        guard: Guard,
        limits: Limits,
        log: Log,
        *,
        live: Callable[[], dict[str, Any]],
    ) -> None:
        self._core = core
        self._guard = guard
        self._log = log
        self._live = live
        self._known: dict[bytes, Match] = {}
        self._later = Later()
        self._lull = Lull()
        self._inference = Inference(core, limits, self._later)

    # What the connections call.

    def match(self, target: bytes) -> Match:
        """What answers a request target."""
        found = self._known.get(target)
        if found is None:
            found = self._find(_segments(target))
            if len(target) > _LONGEST or (found.model and found.model not in self._names()):
                return found
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[target] = found
        return found

    def admit(self, exchange: Exchange, match: Match) -> None:
        """Refuse by the headers alone."""
        if exchange.method not in match.methods:
            raise MethodNotAllowed(match.methods)
        if match.access == "infer":
            if not self._guard.infer_is_open:
                self._guard.check_infer(exchange.headers.get(b"authorization"))
        elif match.access == "admin":
            self._guard.check_admin(exchange.headers.get(b"authorization"))
        if match.handler == self._inference.infer:
            self._inference.admit(exchange, match)

    def dispatch(self, exchange: Exchange, match: Match) -> None:
        """Answer, now or later."""
        match.handler(exchange, match)

    def lane(self, match: Match) -> Callable[[], Express | None] | None:
        """What finds the express lane to a model whenever it is asked, for paths of inference."""
        if match.handler != self._inference.infer:
            return None
        return functools.partial(self._core.lane, match.model, match.version)

    def gate(self, match: Match) -> Gate | None:
        """Where requests are refused while their model is too busy, for paths of inference."""
        if match.handler != self._inference.infer:
            return None
        return Gate(self._core, match.model, match.version, self._lull)

    # Health, and what there is.

    def _is_live(self, exchange: Exchange, match: Match) -> None:
        exchange.answer_json({"live": True})

    def _is_ready(self, exchange: Exchange, match: Match) -> None:
        ready = self._core.ready()
        exchange.answer_json({"ready": ready}, status=200 if ready else 503)

    def _model_is_ready(self, exchange: Exchange, match: Match) -> None:
        repository = self._core.repository
        if match.model not in self._names():
            raise UnknownModel(f"there is no model '{match.model}'")
        ready = not self._live()["draining"] and repository.ready(match.model, match.version)
        document = {"name": match.model, "ready": ready}
        exchange.answer_json(document, status=200 if ready else 503)

    def _server(self, exchange: Exchange, match: Match) -> None:
        exchange.answer_json(
            {"name": "strop", "version": strop.__version__, "extensions": _EXTENSIONS}
        )

    def _metadata(self, exchange: Exchange, match: Match) -> None:
        model = self._model(match)
        exchange.answer_json(
            {
                "name": model.name,
                "versions": self._core.repository.versions(model.name),
                "platform": model.platform,
                "inputs": [info._asdict() for info in model.inputs],
                "outputs": [info._asdict() for info in model.outputs],
            }
        )

    def _config(self, exchange: Exchange, match: Match) -> None:
        exchange.answer_json(self._model(match).config())

    def _statistics(self, exchange: Exchange, match: Match) -> None:
        models = self._core.repository.models()
        if match.model:
            asked = self._model(match)
            models = [
                model
                for model in models
                if model.name == asked.name and (not match.version or model is asked)
            ]
        exchange.answer_json(
            {
                "model_stats": [
                    {"name": it.name, "version": it.version, **it.statistics.to_dict()}
                    for it in models
                ]
            }
        )

    # The repository.

    def _index(self, exchange: Exchange, match: Match) -> None:
        wanted = _question(exchange)
        ready_only = wanted.get("ready") is True
        exchange.answer_json(
            [
                state._asdict()
                for state in self._core.repository.index()
                if state.state == "READY" or not ready_only
            ]
        )

    def _load(self, exchange: Exchange, match: Match) -> None:
        if _question(exchange).get("parameters"):
            raise BadRequest("a model is loaded as it was configured, without parameters")
        if match.model not in self._names():
            raise UnknownModel(f"there is no model '{match.model}'")
        self._later(exchange, self._load_model(exchange, match.model))

    async def _load_model(self, exchange: Exchange, name: str) -> None:
        began = time.monotonic()
        try:
            await self._core.repository.load(name)
        except ServeError:
            raise
        except StropError as error:
            self._log.event("load-failed", level="error", model=name, reason=str(error))
            raise ServeError(
                f"the model '{name}' cannot be loaded; the server's log says why"
            ) from None
        self._log.event("loaded", model=name, seconds=round(time.monotonic() - began, 3))
        exchange.answer(200, [b"{}"])

    def _unload(self, exchange: Exchange, match: Match) -> None:
        self._later(exchange, self._unload_model(exchange, match.model))

    async def _unload_model(self, exchange: Exchange, name: str) -> None:
        await self._core.repository.unload(name)
        self._log.event("unloaded", model=name)
        exchange.answer(200, [b"{}"])

    # For people and machines that watch.

    def _page(self, exchange: Exchange, match: Match) -> None:
        text, policy = page()
        exchange.answer(
            200,
            [text],
            content_type=b"text/html; charset=utf-8",
            extra=b"Content-Security-Policy: %b\r\nX-Content-Type-Options: nosniff\r\n"
            b"Referrer-Policy: no-referrer\r\nCache-Control: no-cache\r\n" % policy,
        )

    def _overview(self, exchange: Exchange, match: Match) -> None:
        exchange.answer_json(overview(self._core, self._live()))

    def _openapi(self, exchange: Exchange, match: Match) -> None:
        exchange.answer_json(openapi())

    def _prometheus(self, exchange: Exchange, match: Match) -> None:
        text = metrics_text(self._core)
        exchange.answer(200, [text], content_type=b"text/plain; version=0.0.4; charset=utf-8")

    # Helpers.

    def _find(self, path: list[str]) -> Match:
        match path:
            case []:
                return Match(self._page, GET, "open")
            case ["overview.json"]:
                return Match(self._overview, GET, "infer")
            case ["openapi.json"]:
                return Match(self._openapi, GET, "open")
            case ["metrics"]:
                return Match(self._prometheus, GET, "infer")
            case ["v2"]:
                return Match(self._server, GET, "infer")
            case ["v2", "health", "live"]:
                return Match(self._is_live, GET, "open")
            case ["v2", "health", "ready"]:
                return Match(self._is_ready, GET, "open")
            case ["v2", "models", "stats"]:
                return Match(self._statistics, GET, "infer")
            case ["v2", "repository", "index"]:
                return Match(self._index, _POST | GET, "infer")
            case ["v2", "repository", "models", name, "load"]:
                return self._of_model(self._load, _POST, "admin", name)
            case ["v2", "repository", "models", name, "unload"]:
                return self._of_model(self._unload, _POST, "admin", name)
            case ["v2", "models", name, "versions", version, *rest]:
                return self._model_route(name, version, rest)
            case ["v2", "models", name, *rest]:
                return self._model_route(name, "", rest)
            case ["v2", first, *_] if first in _NOT_OFFERED:
                raise NotOffered(f"'{first}' is not offered")
            case _:
                raise NotFound("there is nothing at this path")

    def _model_route(self, name: str, version: str, rest: list[str]) -> Match:
        match rest:
            case ["infer"]:
                return self._of_model(self._inference.infer, _POST, "infer", name, version)
            case []:
                return self._of_model(self._metadata, GET, "infer", name, version)
            case ["ready"]:
                return self._of_model(self._model_is_ready, GET, "open", name, version)
            case ["config"]:
                return self._of_model(self._config, GET, "infer", name, version)
            case ["stats"]:
                return self._of_model(self._statistics, GET, "infer", name, version)
            case [first, *_] if first in _NOT_OFFERED:
                raise NotOffered(f"'{first}' is not offered")
            case _:
                raise NotFound("there is nothing at this path")

    def _of_model(
        self,
        handler: Callable[[Exchange, Match], None],
        methods: frozenset[bytes],
        access: Access,
        name: str,
        version: str = "",
    ) -> Match:
        check_name(name)
        if version:
            check_name(version)
        return Match(handler, methods, access, name, version)

    def _model(self, match: Match) -> ServedModel:
        return self._core.repository.model(match.model, match.version)

    def _names(self) -> set[str]:
        return {state.name for state in self._core.repository.index()}


def _question(exchange: Exchange) -> dict[str, Any]:
    """The JSON object that comes with a question about the repository; nothing is an empty one."""
    if len(exchange.body) > _QUESTION:
        raise TooLarge(f"the body has more than {_QUESTION} bytes, for this path")
    return parse(exchange.body) if exchange.body else {}


def _segments(target: bytes) -> list[str]:
    """The parts of a path, decoded one by one, so that an encoded slash separates nothing."""
    if not target.startswith(b"/"):
        try:
            target = httptools.parse_url(target).path or b"/"
        except httptools.HttpParserInvalidURLError:
            raise BadRequest("this is not a path") from None
    path = target.partition(b"?")[0].partition(b"#")[0]
    parts = path[1:].split(b"/")
    if parts[-1] == b"":
        parts.pop()
    try:
        return [unquote_to_bytes(part).decode() for part in parts]
    except UnicodeDecodeError:
        raise BadRequest("this path is not UTF-8") from None
