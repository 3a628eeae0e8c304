"""How a parent and its child talk: JSON frames over a socket, followed by the bytes of arrays.

A frame is four magic bytes, the length of a JSON document (4 bytes, little-endian), the document,
and the bytes in C order of each array that the document lists. Nothing is ever unpickled. Plain
bytes over a Unix socket pair move a gigabyte in well under a second, so shared memory, and the
files it may leave behind, are not worth having.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from strop.workers.errors import ChildError

if TYPE_CHECKING:
    import numpy as np

Frame: TypeAlias = "list[bytes | memoryview]"

_Buffer = TypeVar("_Buffer", bytearray, memoryview)

_MAGIC = b"strp"
_PREFIX = struct.Struct("<4sI")
_ARRAY = "$array"
_PLAIN_KINDS = frozenset("biufcmMSU")  # numpy's kinds whose bytes are the whole value
_HINT = "send JSON values, paths, numpy arrays, or lists and string-keyed dicts of those"


class Wire:
    """One end of the conversation.

    Parameters
    ----------
    connection
        A connected stream socket.
    wait
        Called with ``select.POLLIN`` or ``select.POLLOUT`` whenever a non-blocking socket is not
        ready. It returns when it is, or raises to give up.
    """

    def __init__(
        self, connection: socket.socket, wait: Callable[[int], None] = lambda events: None
    ) -> None:
        self._connection = connection
        self._wait = wait

    def send(self, frame: Frame) -> None:
        """Send what :func:`encode` made."""
        for buffer in frame:
            rest = memoryview(buffer)
            while rest:
                try:
                    rest = rest[self._connection.send(rest) :]
                except BlockingIOError:
                    self._wait(select.POLLOUT)

    def receive(self) -> dict[str, Any]:
        """The next message; raises EOFError at the end, even in the middle of a frame.

        Raises
        ------
        ChildError
            What arrived is not a frame.
        """
        magic, length = _PREFIX.unpack(self._read(bytearray(_PREFIX.size)))
        if magic != _MAGIC:
            raise ChildError(f"expected a frame that starts with {_MAGIC!r}, got {bytes(magic)!r}")
        document = self._read(bytearray(length))
        try:
            header = json.loads(document)
            packed = header["message"]
            arrays = [_empty(**description) for description in header["arrays"]]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ChildError(f"a frame has a header that cannot be read: {error}") from error
        for array in arrays:
            self._read(_bytes(array))
        message: dict[str, Any] = _unpack(packed, arrays)
        return message

    def _read(self, buffer: _Buffer) -> _Buffer:
        rest = memoryview(buffer)
        while rest:
            try:
                count = self._connection.recv_into(rest)
            except BlockingIOError:
                self._wait(select.POLLIN)
                continue
            if count == 0:
                raise EOFError
            rest = rest[count:]
        return buffer


def encode(message: Mapping[str, Any]) -> Frame:
    """The frame that carries a message.

    Tuples arrive as lists, paths as strings, numpy scalars as Python numbers, arrays in C order
    with dtype (byte order included), shape and bits unchanged.

    Raises
    ------
    ChildError
        Something in the message is not plain data, such as an array of objects.
    """
    arrays: list[np.ndarray[Any, Any]] = []
    packed = _pack(message, arrays)
    header = {"message": packed, "arrays": [_describe(array) for array in arrays]}
    try:
        document = json.dumps(header, separators=(",", ":")).encode()
        prefix = _PREFIX.pack(_MAGIC, len(document))
    except (ValueError, struct.error) as error:  # an integer or a document of absurd length
        raise ChildError(f"a message cannot be written as JSON: {error}", hint=_HINT) from error
    return [prefix + document, *map(_bytes, arrays)]


def _pack(value: Any, arrays: list[np.ndarray[Any, Any]]) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return {_key(key): _pack(item, arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_pack(item, arrays) for item in value]
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    numpy = sys.modules.get("numpy")  # not loaded means that nothing here can be an array
    if numpy is not None:
        # Subclasses mean something beyond their bytes (masks, for one): only memory maps do not.
        if type(value) in (numpy.ndarray, numpy.memmap):
            arrays.append(value)
            return {_ARRAY: len(arrays) - 1}
        if isinstance(value, numpy.generic) and isinstance(item := value.item(), str | int | float):
            return item
    name = type(value).__name__
    raise ChildError(f"a value of type {name} cannot travel between processes", hint=_HINT)


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise ChildError(f"the dict key {key!r} is not a string", hint=_HINT)
    return f"${key}" if key.startswith("$") else key


def _unpack(value: Any, arrays: list[np.ndarray[Any, Any]]) -> Any:
    if isinstance(value, dict):
        if _ARRAY in value:
            return arrays[value[_ARRAY]]
        return {key.removeprefix("$"): _unpack(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [_unpack(item, arrays) for item in value]
    return value


def _describe(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    dtype = array.dtype
    if dtype.kind in _PLAIN_KINDS:
        return {"shape": array.shape, "dtype": dtype.str}
    if dtype.type.__module__.partition(".")[0] == "ml_dtypes":  # bfloat16, float8_*, int4 …
        return {"shape": array.shape, "dtype": dtype.name, "extended": True}
    raise ChildError(
        f"an array of dtype {dtype} cannot travel between processes",
        hint="convert it to numbers, booleans or fixed-width strings",
    )


def _empty(
    *, shape: list[int], dtype: str, extended: bool = False, **_: Any
) -> np.ndarray[Any, Any]:
    import numpy as np

    if extended:
        import ml_dtypes

        return np.ndarray(tuple(shape), np.dtype(getattr(ml_dtypes, dtype)))
    plain = np.dtype(dtype)
    if plain.kind not in _PLAIN_KINDS:
        raise ValueError(f"dtype {dtype} is not plain data")
    return np.ndarray(tuple(shape), plain)


def _bytes(array: np.ndarray[Any, Any]) -> memoryview:
    """The bytes of an array in C order, without a copy where it is contiguous."""
    if array.nbytes == 0:
        return memoryview(b"")
    import numpy as np

    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
