"""What every gRPC call has in common: read the message, refuse it, compress the answer."""

from __future__ import annotations

import logging
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from strop.serve.errors import BadRequest, ServeError, TooLarge

UNFORESEEN = "the server failed on this request; its log says why"

_log = logging.getLogger("strop.serve")
_LONGEST = 500
_FIXED = {1: 8, 5: 4}  # bytes of the kinds of field that always have as many
_MOST_FIELDS = 4096
_CODINGS = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}


def parsed(kind: Any, data: bytes, most: int) -> Any:
    """The message in `data`.

    Not left to grpc: what a client can send must not fill the log, nor name our classes to it.

    Parameters
    ----------
    most
        Bytes of everything but ``raw_input_contents``, which are copied whole. All else is read
        element by element, for up to 60 ms and 20 MiB a MiB.

    Raises
    ------
    BadRequest
        When it is none of this kind.
    TooLarge
        When it holds more.
    """
    try:
        if len(data) > most and _beside_raw(kind, data) > most:
            raise TooLarge(
                f"the message has more than {most} bytes beside raw_input_contents",
                hint="send tensors in raw_input_contents",
            )
        return kind.FromString(data)
    except (DecodeError, _Damaged):
        raise BadRequest(f"the message is no {kind.DESCRIPTOR.name}") from None


def told(error: ServeError) -> str:
    r"""An error's message as it is sent: what it quotes from a request may be long, or no text.

    Examples
    --------
    >>> told(BadRequest("there is no input 'a\0b'"))
    "there is no input 'a?b'"
    """
    text = str(error)
    if len(text) > _LONGEST:  # it travels in a header, and those have a limit
        text = text[: _LONGEST - 1] + "…"
    return "".join(it if it.isprintable() else "?" for it in text)


async def refuse(context: Any, error: ServeError) -> None:
    """End a call with an error; does not return."""
    trailing: tuple[tuple[str, str], ...] = tuple(context.trailing_metadata() or ())
    if error.retry_after is not None:
        seconds, milliseconds = -int(-error.retry_after // 1), -int(-error.retry_after * 1000 // 1)
        trailing += (
            ("retry-after", str(max(1, seconds))),
            ("retry-after-ms", str(max(1, milliseconds))),
        )
    await context.abort(grpc.StatusCode[error.grpc], told(error), trailing)


class _Damaged(Exception):
    """These bytes are no message."""


def _beside_raw(kind: Any, data: bytes) -> int:
    """Bytes of the fields other than raw tensors, by the tags and lengths of the outermost level.

    See protobuf.dev, "Encoding": a field is a varint of its number and kind, and its content, which
    has a length of its own in kind 2.
    """
    raw = kind.DESCRIPTOR.fields_by_name.get("raw_input_contents")
    number = 0 if raw is None else raw.number
    position = fields = skipped = 0
    while position < len(data):
        tag, position = _varint(data, position)
        if tag & 7 == 2:
            length, position = _varint(data, position)
            position += length
            if tag >> 3 == number:
                skipped += length
        elif tag & 7 == 0:
            _, position = _varint(data, position)
        elif tag & 7 in _FIXED:
            position += _FIXED[tag & 7]
        else:
            raise _Damaged
        fields += 1
        if fields > _MOST_FIELDS:
            raise _Damaged
    return len(data) - skipped


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """The number at a position, seven bits a byte, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _Damaged


def log_fault(error: Exception, request: str) -> None:
    """What should not have happened is for the log, not for the client, who knows its id."""
    _log.error("the gRPC call %s failed", request, exc_info=error)


async def compress_if_asked(context: Any) -> None:
    """Compress the call's answers where its metadata have ``accept-encoding: gzip`` or ``deflate``.

    gRPC's own ``grpc-accept-encoding`` says what a client library can read, which is everything,
    and not what its user wants; and it is not shown to servers written in Python.
    """
    asked = dict(context.invocation_metadata() or ()).get("accept-encoding", "")
    for entry in str(asked).lower().split(","):
        coding = _CODINGS.get(entry.strip())
        if coding is not None:
            context.set_compression(coding)
            # Without this the answer of a unary call goes out as it is.
            await context.send_initial_metadata(())
            return
