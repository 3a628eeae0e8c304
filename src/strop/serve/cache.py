"""Outputs by the content of the request, bounded in bytes."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np

from strop.serve.request import InferRequest

_ENTRY = 512
"""Bytes that an entry costs beside its arrays' data, roughly: dictionary, names, array headers."""


class ResponseCache:
    """Least recently used outputs go first when `limit` bytes are full.

    One cache belongs to one loaded version of a model and goes with it, so that a reloaded model
    never answers with what its predecessor computed.

    Examples
    --------
    >>> cache = ResponseCache(limit=2000)
    >>> request = InferRequest("m", {"x": np.ones((1, 2), np.float32)})
    >>> key = cache.key(request)
    >>> cache.get(key) is None
    True
    >>> cache.put(key, {"y": np.zeros((1, 3))})
    >>> cache.get(key)["y"].shape, cache.bytes
    ((1, 3), 536)
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._entries: OrderedDict[bytes, tuple[int, dict[str, np.ndarray]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    @staticmethod
    def key(request: InferRequest) -> bytes:
        """A digest of names, dtypes, shapes and contents, and of the outputs wanted.

        BLAKE2b with 16 bytes: nobody can make two requests that share a key on purpose, which a
        faster checksum would allow, and with it the reading of another client's answer.
        """
        digest = hashlib.blake2b(digest_size=16)
        for name in sorted(request.inputs):
            array = request.inputs[name]
            digest.update(f"{name}\0{array.dtype.str}{array.shape}\0".encode())
            if array.dtype.hasobject:
                for element in array.ravel():
                    data = element if isinstance(element, bytes) else str(element).encode()
                    digest.update(len(data).to_bytes(8, "little"))
                    digest.update(data)
            else:
                contiguous = np.ascontiguousarray(array)
                digest.update(contiguous.reshape(-1).view(np.uint8).data)
        digest.update(repr(request.outputs).encode())
        return digest.digest()

    def get(self, key: bytes) -> dict[str, np.ndarray] | None:
        """The outputs under `key`, now the most recently used; read-only arrays."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[1]

    def put(self, key: bytes, outputs: dict[str, np.ndarray]) -> None:
        """Keep a copy: the arrays given are views that would hold a whole batch in memory."""
        size = _ENTRY + sum(_size(array) for array in outputs.values())
        if size > self.limit:
            return
        kept = {}
        for name, array in outputs.items():
            kept[name] = array.copy()
            kept[name].flags.writeable = False
        before = self._entries.pop(key, None)
        if before is not None:
            self.bytes -= before[0]
        self._entries[key] = (size, kept)
        self.bytes += size
        while self.bytes > self.limit:
            _, (freed, _) = self._entries.popitem(last=False)
            self.bytes -= freed


def _size(array: np.ndarray) -> int:
    if array.dtype.hasobject:
        return array.nbytes + sum(len(element) + 40 for element in array.ravel())
    return array.nbytes
