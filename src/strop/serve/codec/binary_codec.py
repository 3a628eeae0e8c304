"""Tensors as bytes after the JSON: the protocol's binary tensor extension."""

from __future__ import annotations

import numpy as np

from strop.serve.codec.datatypes import ITEMSIZE, dtype_of, pack_bytes, unpack_bytes
from strop.serve.errors import BadRequest


def decode_tensor(
    data: memoryview, datatype: str, shape: list[int], count: int, name: str
) -> np.ndarray:
    """The array over `data`, read-only where that is; `count` is the product of `shape`.

    Nothing is copied but strings, and data that do not lie where the processor wants them.

    Raises
    ------
    BadRequest
        When there are more or fewer bytes than the shape says, or a BOOL is not 0 or 1.

    Examples
    --------
    >>> decode_tensor(memoryview(bytes(8)), "FP32", [2, 1], 2, "x").tolist()
    [[0.0], [0.0]]
    """
    if datatype == "BYTES":
        return unpack_bytes(data, count, name).reshape(shape)
    dtype = dtype_of(datatype)
    if len(data) != count * ITEMSIZE[datatype]:
        raise BadRequest(
            f"input '{name[:80]}' has {len(data)} bytes, but its shape {shape} of {datatype} has "
            f"{count * ITEMSIZE[datatype]}"
        )
    if datatype == "BOOL":
        values = np.frombuffer(data, np.uint8)
        if count and values.max() > 1:
            raise BadRequest(f"input '{name[:80]}': its data are not all BOOL values")
        return values.view(np.bool_).reshape(shape)
    array = np.frombuffer(data, dtype)
    if not array.flags.aligned:
        array = array.copy()
    return array.reshape(shape)


def encode_tensor(array: np.ndarray) -> memoryview:
    r"""The bytes of an output: a view of the array where it is contiguous.

    Examples
    --------
    >>> encode_tensor(np.array([1], np.int16)).tobytes()
    b'\x01\x00'
    """
    if array.dtype.kind in "OUST":
        return memoryview(pack_bytes(array))
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.byteorder == ">":
        flat = flat.astype(flat.dtype.newbyteorder("<"))
    return flat.view(np.uint8).data
