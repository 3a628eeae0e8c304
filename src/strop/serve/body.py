"""The body of a request while it arrives."""

from __future__ import annotations

import numpy as np

_ALIGNED = 64


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
        self._pieces: list[bytes] = []
        self._whole: memoryview | None = None

    def begin(self) -> None:
        """The body of another request."""
        self.size = 0

    def add(self, piece: bytes) -> None:
        """Keep a piece that the parser gave; `size` is counted by the caller, who may drop it."""
        self._pieces.append(piece)

    def expect(self, length: int, shift: int) -> None:
        """Take the rest of `length` bytes straight into a buffer.

        Parameters
        ----------
        shift
            Where in the body the part begins that is to be aligned.
        """
        memory = np.empty(length + _ALIGNED, np.uint8)
        start = -(memory.ctypes.data + shift) % _ALIGNED
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

    def whole(self) -> bytes | memoryview:
        """All of it, which is then forgotten here."""
        whole, pieces = self._whole, self._pieces
        self.drop()
        if whole is not None:
            return whole
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def drop(self) -> None:
        """Forget what arrived."""
        self.window = self._whole = None
        self._pieces = []
