"""The body of a request while it arrives."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys

import numpy as np

_ALIGNED = 64
_LARGE = 2 << 20  # bytes that are still to come of a body that is gathered
PART = 1 << 20
_PIECES = 64  # that are kept as they are
_GATHERS = sys.platform == "linux"  # its buffers grow with what they are told to gather


class Body:
    """Bytes from the parser in pieces, or, once a length is expected, straight from the kernel.

    A body that is not there at once is received into a buffer of its own, so that the tensors in
    it are views of what the kernel wrote, aligned to 64 bytes.

    Attributes
    ----------
    size
        How many bytes have arrived.
    window
        Where the next bytes go; None where they go to the parser.

    Examples
    --------
    >>> body = Body()
    >>> body.add(b"ab")
    >>> body.expect(4, 0)
    >>> body.window[:2] = b"cd"
    >>> body.fill(2), bytes(body.whole())
    (True, b'abcd')
    """

    __slots__ = ("_pieces", "_whole", "size", "window")

    def __init__(self) -> None:
        self.size = 0
        self.window: memoryview | None = None
        self._pieces: list[bytes | bytearray | memoryview] = []
        self._whole: memoryview | None = None

    def begin(self) -> None:
        """The body of another request."""
        self.size = 0

    def add(self, piece: bytes | memoryview) -> None:
        """Keep a piece that is there; `size` is counted by the caller, who may drop it.

        A view is to be copied by `expect` before what it shows changes.
        """
        pieces = self._pieces
        if len(pieces) < _PIECES:
            pieces.append(piece)
            return
        # An object for each of many small chunks would take many times their bytes.
        last = pieces[-1]
        if not isinstance(last, bytearray):
            last = bytearray()
            pieces.append(last)
        last += piece

    def expect(self, length: int, shift: int) -> None:
        """Take the rest of `length` bytes straight into a buffer.

        Parameters
        ----------
        shift
            Where in the body the part begins that is to be aligned.
        """
        memory = np.empty(length + _ALIGNED, np.uint8)
        # Not `memory.ctypes`: that is 20 µs of Python where caches are cold.
        start = -(memory.__array_interface__["data"][0] + shift) % _ALIGNED
        whole = memory.data[start : start + length]
        position = 0
        for piece in self._pieces:
            whole[position : position + len(piece)] = piece
            position += len(piece)
        self._pieces = []
        self._whole = whole
        self.window = whole[position:]

    def fill(self, size: int) -> bool:
        """So many bytes came into the window; whether they were the last."""
        assert self.window is not None
        self.size += size
        self.window = self.window[size:]
        return not self.window

    def gather(self, transport: asyncio.Transport, part: int, most: int = PART) -> int:
        """Have the kernel wake the event loop for parts of a large body, not for a few packets.

        Each time it does, a thread that computes loses the core and what it has in the caches. The
        last part is as long as what is left. The end of the stream, errors and a full buffer are
        told at once all the same.

        Parameters
        ----------
        part
            What the kernel was told before, 1 at first.
        most
            The largest part.

        Returns
        -------
        What it was told now.
        """
        left = 0 if self.window is None else len(self.window)
        if part == 1 and (left < _LARGE or not _GATHERS or transport.get_extra_info("sslcontext")):
            return 1
        wanted = min(left, most) or 1
        if wanted != part:
            connection = transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wanted)
        return wanted

    def whole(self) -> bytes | memoryview:
        """All of it, which is then forgotten here."""
        whole, pieces = self._whole, self._pieces
        self.drop()
        if whole is not None:
            return whole
        if len(pieces) == 1 and not isinstance(pieces[0], bytearray):
            return pieces[0]
        return b"".join(pieces)

    def drop(self) -> None:
        """Forget what arrived."""
        self.window = self._whole = None
        self._pieces = []
