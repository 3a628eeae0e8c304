"""What every gRPC call has in common: read the message, refuse it, compress the answer."""

from __future__ import annotations

import logging
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from strop.serve.errors import BadRequest, ServeError

UNFORESEEN = "the server failed on this request; its log says why"

_log = logging.getLogger("strop.serve")
_LONGEST = 500
_CODINGS = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}


def parsed(kind: Any, data: bytes) -> Any:
    """The message in `data`.

    Not left to grpc: what a client can send must not fill the log, nor name our classes to it.

    Raises
    ------
    BadRequest
        When it is none of this kind.
    """
    try:
        return kind.FromString(data)
    except DecodeError:
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
    trailing: tuple[tuple[str, str], ...] = ()
    if error.retry_after is not None:
        seconds, milliseconds = -int(-error.retry_after // 1), -int(-error.retry_after * 1000 // 1)
        trailing = (
            ("retry-after", str(max(1, seconds))),
            ("retry-after-ms", str(max(1, milliseconds))),
        )
    await context.abort(grpc.StatusCode[error.grpc], told(error), trailing)


def log_fault(error: Exception) -> None:
    """What should not have happened is for the log, not for the client."""
    _log.error("a gRPC call failed", exc_info=error)


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
