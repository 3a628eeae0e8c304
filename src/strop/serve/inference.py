"""An inference over HTTP: a body to arrays, the core's answer to a body."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import zlib
from typing import TYPE_CHECKING

from strop.serve.codec import Limits, decode, decode_raw, decompress, encode
from strop.serve.core import Core
from strop.serve.errors import BadRequest, ServeError, TooLarge
from strop.serve.exchange import BINARY, JSON, Exchange
from strop.serve.later import Later
from strop.serve.request import InferRequest, InferResponse

if TYPE_CHECKING:
    from strop.serve.routes import Match

_LARGE = 64 << 10  # a body beyond it is not read for a model that does not exist
_OFF_LOOP = 128 << 10  # bytes beyond which (de)compression would hold the event loop up
_INFLATED = 1 << 20  # bytes beyond which they are decompressed anew, off the loop
_COMPRESSED = 1 << 10  # an answer below it is not compressed, whatever the client accepts
_LEAST = 2  # bytes of JSON that an element takes at the least: a digit and a comma

Body = bytes | memoryview
_Parts = list[bytes | memoryview]


class Inference:
    """What answers ``POST …/infer``."""

    def __init__(self, core: Core, limits: Limits, later: Later) -> None:
        self._core = core
        self._limits = limits
        self._quick = dataclasses.replace(limits, body=min(limits.body, _INFLATED))
        self._later = later

    def admit(self, exchange: Exchange, match: Match) -> None:
        """Refuse by the headers alone, before the body is read.

        Raises
        ------
        ServeError
            When the body would not be used.
        """
        length = exchange.length or 0
        # A client that waits for a word before it sends learns at once that there is no use.
        if (
            exchange.wants_continue
            and (error := self._core.refusal(match.model, match.version)) is not None
        ):
            raise error
        try:
            if length > _LARGE:
                self._core.repository.batcher(match.model, match.version)
            if (
                self._limits.json < length <= self._limits.body
                and b"inference-header-content-length" not in exchange.headers
                and b"content-encoding" not in exchange.headers
            ):
                raise _too_much_json(f"the body holds {length}", self._limits)
        except ServeError as refused:
            self._core.note(refused)
            raise

    def infer(self, exchange: Exchange, match: Match) -> None:
        """Decode, submit, and answer when the core does."""
        coding = exchange.headers.get(b"content-encoding")
        try:
            if coding is None or coding == b"identity":
                self._submit(exchange, match, exchange.body)
            elif (body := self._decompressed(exchange.body, coding)) is not None:
                self._submit(exchange, match, body)
            else:
                self._later(exchange, self._decompress(exchange, match, coding))
        except ServeError as error:
            self._core.note(error)
            raise

    def _decompressed(self, body: Body, coding: bytes) -> bytes | None:
        """The content of a small body; None where that takes longer than other requests may wait.

        How long it takes, its size as it was sent does not say: it may grow a thousandfold.
        """
        if len(body) > _OFF_LOOP:
            return None
        try:
            return decompress(body, coding, self._quick)
        except TooLarge:
            return None

    async def _decompress(self, exchange: Exchange, match: Match, coding: bytes) -> None:
        loop = asyncio.get_running_loop()
        try:
            body = await loop.run_in_executor(None, decompress, exchange.body, coding, self._limits)
            if not exchange.gone:
                self._submit(exchange, match, body)
        except ServeError as error:
            self._core.note(error)
            raise

    def _submit(self, exchange: Exchange, match: Match, body: Body) -> None:
        text = exchange.headers.get(b"inference-header-content-length")
        if text is None:
            decoded = decode(body, None, self._limits)
        elif (length := _length(text)) > 0:
            decoded = decode(body, length, self._limits)
        else:
            inputs = self._core.repository.model(match.model, match.version).inputs
            if len(inputs) != 1:
                raise BadRequest(
                    f"the model '{match.model}' has {len(inputs)} inputs: only one could be the "
                    "whole body"
                )
            decoded = decode_raw(body, *inputs[0], self._limits)
        arrived = exchange.arrived
        request = InferRequest(
            match.model,
            decoded.inputs,
            match.version,
            decoded.outputs,
            decoded.id,
            decoded.priority,
            None if decoded.timeout is None else arrived + decoded.timeout,
            arrived,
            decoded.parameters,
        )
        done = functools.partial(self._answer, exchange, decoded.binary)
        exchange.ticket = (exchange.submit or self._core.submit)(request, done)

    def _answer(
        self, exchange: Exchange, binary: bool | frozenset[str], result: InferResponse | ServeError
    ) -> None:
        if isinstance(result, ServeError):
            exchange.fail(result)
            return
        try:
            if binary is not True:
                self._check_json(result, binary or frozenset())
            parts, json_length = encode(
                result.model, result.version, result.outputs, result.id, binary
            )
        except ServeError as error:
            exchange.fail(error)
            return
        except Exception as error:
            exchange.fail_unexpectedly(error)
            return
        accepted = exchange.headers.get(b"accept-encoding")
        coding = b"" if accepted is None else _coding(accepted)
        if coding and sum(map(len, parts)) >= _COMPRESSED:
            self._later(exchange, self._compress(exchange, parts, json_length, coding))
            return
        if json_length is None:
            exchange.answer_ok(parts[0])  # type: ignore[arg-type]  # JSON alone is bytes
        else:
            extra = b"Inference-Header-Content-Length: %d\r\n" % json_length
            exchange.answer(200, parts, content_type=BINARY, extra=extra)

    async def _compress(
        self, exchange: Exchange, parts: _Parts, json_length: int | None, coding: bytes
    ) -> None:
        if sum(map(len, parts)) > _OFF_LOOP:
            loop = asyncio.get_running_loop()
            packed = await loop.run_in_executor(None, _compress, parts, coding)
        else:
            packed = _compress(parts, coding)
        extra = b"Content-Encoding: %b\r\nVary: Accept-Encoding\r\n" % coding
        if json_length is not None:
            extra += b"Inference-Header-Content-Length: %d\r\n" % json_length
        kind = JSON if json_length is None else BINARY
        exchange.answer(200, [packed], content_type=kind, extra=extra)

    def _check_json(self, result: InferResponse, binary: frozenset[str]) -> None:
        """Refuse to write more JSON than is read: other requests would wait for it as long."""
        size = 0
        for name, array in result.outputs.items():
            if name not in binary:
                size += _LEAST * array.size
        if size > self._limits.json:
            raise _too_much_json(f"the answer would hold more than {size}", self._limits)


def _too_much_json(what: str, limits: Limits) -> TooLarge:
    return TooLarge(
        f"{what} bytes of JSON, the limit is {limits.json}",
        hint="send and ask for tensors as binary data (binary_data_size, binary_data_output)",
    )


def _length(text: bytes) -> int:
    if not text.isdigit() or len(text) > 15:
        raise BadRequest("Inference-Header-Content-Length is not a number of bytes")
    return int(text)


@functools.lru_cache(256)
def _coding(accepted: bytes) -> bytes:
    """The coding that a client prefers of those offered; empty for none.

    Remembered, because clients say the same every time.
    """
    best, chosen = 0.0, b""
    for entry in accepted.lower().split(b","):
        name, _, weight = entry.replace(b" ", b"").partition(b";q=")
        if name in (b"gzip", b"deflate"):
            try:
                quality = float(weight or b"1")
            except ValueError:
                continue
            if quality > best:
                best, chosen = quality, name
    return chosen


def _compress(parts: _Parts, coding: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31 if coding == b"gzip" else 15)
    return b"".join([*(packer.compress(part) for part in parts), packer.flush()])
