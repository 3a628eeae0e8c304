"""Datatypes of the Open Inference Protocol and what numpy calls them; strings as bytes."""

from __future__ import annotations

import functools
import struct

import numpy as np

from strop.serve.errors import BadRequest, ServeError

ITEMSIZE = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "BF16": 2,
    "FP32": 4,
    "FP64": 8,
}
"""Bytes of one element on the wire; BYTES is missing, for its elements differ in length."""

_NUMPY = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "BF16": "bfloat16",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "str",
}
DATATYPES = {name: datatype for datatype, name in _NUMPY.items()}
"""The protocol's names by the dtypes of signatures."""

_BY_CHAR = {
    np.dtype(name).char: datatype for datatype, name in _NUMPY.items() if name != "bfloat16"
} | dict.fromkeys("OUST", "BYTES")
_LENGTH = struct.Struct("<I")


def datatype_of(dtype: str) -> str:
    """The protocol's name for a dtype as signatures spell it.

    Examples
    --------
    >>> datatype_of("float32"), datatype_of("str")
    ('FP32', 'BYTES')
    """
    try:
        return DATATYPES[dtype]
    except KeyError:
        raise ValueError(f"the protocol has no datatype for '{dtype}'") from None


def datatype_of_array(array: np.ndarray) -> str:
    """The protocol's name for what an array holds; strings of any kind are BYTES."""
    # By the character: the name of a dtype is put together anew whenever it is asked for.
    found = _BY_CHAR.get(array.dtype.char)
    return datatype_of(array.dtype.name) if found is None else found


@functools.cache
def dtype_of(datatype: str) -> np.dtype:
    """The numpy dtype of a datatype; BYTES gives object, an array of `bytes`.

    Raises
    ------
    ServeError
        When there is no such datatype.
    """
    name = _NUMPY.get(datatype)
    if name is None:
        raise BadRequest(
            f"there is no datatype '{datatype[:40]}'; the protocol has {', '.join(_NUMPY)}"
        )
    if name == "str":
        return np.dtype(object)
    if name == "bfloat16":
        import ml_dtypes

        extended: np.dtype = np.dtype(ml_dtypes.bfloat16)
        return extended
    return np.dtype(name).newbyteorder("<") if np.little_endian else np.dtype(name)


def pack_bytes(array: np.ndarray) -> bytes:
    r"""Strings as the wire has them: each with its length before it, four bytes little-endian.

    Examples
    --------
    >>> pack_bytes(np.array([b"ab", "c"], dtype=object))
    b'\x02\x00\x00\x00ab\x01\x00\x00\x00c'
    """
    parts: list[bytes] = []
    for element in array.ravel().tolist():
        value = element if isinstance(element, bytes) else str(element).encode()
        parts.append(_LENGTH.pack(len(value)))
        parts.append(value)
    return b"".join(parts)


def unpack_bytes(data: bytes | memoryview, count: int, name: str) -> np.ndarray:
    r"""`count` strings from the wire, as an object array of `bytes` of shape ``[count]``.

    Raises
    ------
    ServeError
        When a length is wrong, or there are more or fewer strings.

    Examples
    --------
    >>> unpack_bytes(b"\x02\x00\x00\x00ab\x00\x00\x00\x00", 2, "x").tolist()
    [b'ab', b'']
    """
    size = len(data)
    if count * 4 > size:  # before anything is allocated for a count that is a lie
        raise _misfit(name, count)
    view = memoryview(data)
    values: list[bytes] = []
    position = 0
    while position + 4 <= size and len(values) < count:
        (length,) = _LENGTH.unpack_from(view, position)
        position += 4
        if length > size - position:
            raise BadRequest(f"input '{name[:80]}': a string is longer than its data")
        values.append(bytes(view[position : position + length]))
        position += length
    if len(values) != count or position != size:
        raise _misfit(name, count)
    array = np.empty(count, dtype=object)
    array[:] = values
    return array


def _misfit(name: str, count: int) -> ServeError:
    return BadRequest(f"input '{name[:80]}': its binary data do not hold exactly {count} strings")
