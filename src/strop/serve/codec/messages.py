"""Whole messages: a body into arrays, outputs into a body."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import orjson

from strop.serve.codec import binary_codec, json_codec
from strop.serve.codec.datatypes import ITEMSIZE, datatype_of_array
from strop.serve.codec.limits import Limits, element_count
from strop.serve.errors import BadRequest, TooLarge
from strop.serve.settings import LEVELS

_NUMPY = orjson.OPT_SERIALIZE_NUMPY
_NOTHING: dict[str, Any] = {}  # read only
_NO_BYTES = memoryview(b"")


@dataclass(slots=True)
class Decoded:
    """What a body asks for.

    Attributes
    ----------
    inputs
        Arrays by name.
    outputs
        The names wanted, in order; None means all.
    binary
        Whether outputs go back as bytes: all of them, none, or those named.
    id, priority, timeout
        The client's; `timeout` in seconds, None where none is given.
    parameters
        The others.
    """

    inputs: dict[str, np.ndarray]
    outputs: tuple[str, ...] | None = None
    binary: bool | frozenset[str] = False
    id: str = ""
    priority: int = 0
    timeout: float | None = None
    parameters: dict[str, Any] = field(default_factory=lambda: _NOTHING)


class Encoded(NamedTuple):
    """A body: `parts` in order, the first `json_length` bytes of it JSON; None: all of it."""

    parts: list[bytes | memoryview]
    json_length: int | None


def decode(body: bytes | memoryview, json_length: int | None, limits: Limits) -> Decoded:
    """The content of an inference request.

    Parameters
    ----------
    body
        All of it, decompressed; arrays made of its binary part are views of it.
    json_length
        The header ``Inference-Header-Content-Length``; None where it is not sent.

    Raises
    ------
    BadRequest, TooLarge
        When the body is not such a request, or beyond the limits.

    Examples
    --------
    >>> text = b'{"inputs":[{"name":"x","datatype":"INT32","shape":[2],"data":[1,2]}]}'
    >>> decode(text, None, Limits()).inputs
    {'x': array([1, 2], dtype=int32)}
    """
    if json_length is None:
        text, tail = body, _NO_BYTES
    elif json_length > len(body):
        raise BadRequest(
            f"Inference-Header-Content-Length is {json_length}, but the body has {len(body)} bytes"
        )
    else:
        view = memoryview(body)
        text, tail = view[:json_length], view[json_length:]
    if len(text) > limits.json:
        raise TooLarge(
            f"the body holds {len(text)} bytes of JSON, the limit is {limits.json}",
            hint="send tensors as binary data",
        )
    document = json_codec.parse(text)
    decoded = Decoded(_inputs(document.get("inputs"), tail, limits))
    if (parameters := document.get("parameters")) is not None:
        _read_parameters(decoded, parameters)
    if (outputs := document.get("outputs")) is not None:
        _read_outputs(decoded, outputs, limits)
    if (identity := document.get("id")) is not None:
        if type(identity) is not str:
            raise BadRequest("'id' is not a string")
        decoded.id = identity
    return decoded


def decode_raw(
    body: bytes | memoryview,
    name: str,
    datatype: str,
    shape: tuple[int, ...],
    limits: Limits,
) -> Decoded:
    """A body that is nothing but the data of a model's only input (header value 0).

    At most one dimension of `shape` may be -1: it is as long as the bytes make it. A leading -1
    beside another one is a batch of 1. The body of a BYTES input is one string.

    Raises
    ------
    BadRequest, TooLarge
        When the bytes do not fill the shape.

    Examples
    --------
    >>> decode_raw(bytes(24), "x", "FP32", (-1, 3), Limits()).inputs["x"].shape
    (2, 3)
    """
    view = memoryview(body)
    if datatype == "BYTES":
        array = np.empty(1, dtype=object)
        array[0] = bytes(view)
        dims = [1 if dim == -1 else dim for dim in shape]
        if element_count(dims, name, limits) != 1:
            raise BadRequest(f"input '{name}' takes more than one string: send it with its shape")
        return Decoded({name: array.reshape(dims)}, binary=True)
    dims = list(shape)
    if dims.count(-1) > 1 and dims[0] == -1:
        dims[0] = 1
    if dims.count(-1) > 1:
        raise BadRequest(f"the shape of input '{name}' is not known from its bytes: send it too")
    if -1 in dims:
        row = ITEMSIZE[datatype] * element_count([dim for dim in dims if dim != -1], name, limits)
        if not row or len(view) % row:
            raise BadRequest(f"input '{name}' has {len(view)} bytes, which is no multiple of {row}")
        dims[dims.index(-1)] = len(view) // row
    count = element_count(dims, name, limits)
    array = binary_codec.decode_tensor(view, datatype, dims, count, name)
    return Decoded({name: array}, binary=True)


def encode(
    model: str,
    version: str,
    outputs: Mapping[str, np.ndarray],
    id: str,
    binary: bool | frozenset[str],
) -> Encoded:
    """The body that answers; binary outputs are views of the arrays.

    Raises
    ------
    BadRequest
        When an output holds bytes that JSON cannot.

    Examples
    --------
    >>> array = np.array([[0.5]], np.float32)
    >>> encode("m", "1", {"y": array}, "", False).parts[0][-70:]
    b'"outputs":[{"name":"y","datatype":"FP32","shape":[1,1],"data":[0.5]}]}'
    """
    if binary is False and len(outputs) == 1 and not id:
        return _encode_one(model, version, outputs)
    described: list[dict[str, Any]] = []
    tail: list[bytes | memoryview] = []
    for name, array in outputs.items():
        entry: dict[str, Any] = {
            "name": name,
            "datatype": datatype_of_array(array),
            "shape": array.shape,
        }
        if binary is False or (binary is not True and name not in binary):
            entry["data"] = json_codec.encode_tensor(array, name)
        else:
            data = binary_codec.encode_tensor(array)
            entry["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
        described.append(entry)
    document: dict[str, Any] = {"model_name": model, "model_version": version}
    if id:
        document["id"] = id
    document["outputs"] = described
    text = orjson.dumps(document, option=_NUMPY)
    return Encoded([text, *tail], len(text) if tail else None)


def _encode_one(model: str, version: str, outputs: Mapping[str, np.ndarray]) -> Encoded:
    """What is asked most: one output as JSON. Only its data are written anew."""
    ((name, array),) = outputs.items()
    data = orjson.dumps(json_codec.encode_tensor(array, name), option=_NUMPY)
    start = _start(model, version, name, datatype_of_array(array), array.shape)
    return Encoded([b"%b%b}]}" % (start, data)], None)


def encode_rows(model: str, version: str, name: str, array: np.ndarray) -> list[bytes]:
    """The bodies of `encode` for every row of an array of numbers alone, all at once.

    Examples
    --------
    >>> array = np.array([[0.5], [1.5]], np.float32)
    >>> encode_rows("m", "1", "y", array) == [
    ...     encode("m", "1", {"y": array[index : index + 1]}, "", False).parts[0]
    ...     for index in range(2)
    ... ]
    True
    """
    text = orjson.dumps(np.ascontiguousarray(array).reshape(len(array), -1), option=_NUMPY)
    start = _start(model, version, name, datatype_of_array(array), (1, *array.shape[1:]))
    return [b"%b[%b]}]}" % (start, row) for row in text[2:-2].split(b"],[")]


@functools.lru_cache(1024)
def _start(model: str, version: str, name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    entry = {"name": name, "datatype": datatype, "shape": shape, "data": []}
    document = {"model_name": model, "model_version": version, "outputs": [entry]}
    return orjson.dumps(document).removesuffix(b"[]}]}")


def _inputs(entries: object, tail: memoryview, limits: Limits) -> dict[str, np.ndarray]:
    if type(entries) is not list or not entries:
        raise BadRequest("the body has no list called 'inputs'")
    if len(entries) > limits.tensors:
        raise TooLarge(f"the request has more than {limits.tensors} inputs")
    inputs: dict[str, np.ndarray] = {}
    position = 0
    for entry in entries:
        if type(entry) is not dict:
            raise BadRequest("an entry of 'inputs' is not an object")
        name, datatype = entry.get("name"), entry.get("datatype")
        shape: Any = entry.get("shape")
        if type(name) is not str or not name:
            raise BadRequest("an entry of 'inputs' has no name")
        if name in inputs:
            raise BadRequest(f"input '{name[:80]}' is given twice")
        if type(datatype) is not str:
            raise BadRequest(f"input '{name[:80]}' has no datatype")
        count = element_count(shape, name, limits, datatype)
        parameters = entry.get("parameters")
        size = None if not parameters else _binary_size(parameters, name)
        if size is None:
            data = entry.get("data")
            inputs[name] = json_codec.decode_tensor(data, datatype, shape, count, name)
            continue
        if size < 0 or size > len(tail) - position:
            raise BadRequest(
                f"input '{name[:80]}': binary_data_size is not within the "
                f"{len(tail) - position} bytes that follow"
            )
        data = tail[position : position + size]
        inputs[name] = binary_codec.decode_tensor(data, datatype, shape, count, name)
        position += size
    if position != len(tail):
        raise BadRequest(f"{len(tail) - position} bytes follow that belong to no input")
    return inputs


def _binary_size(parameters: object, name: str) -> int | None:
    if type(parameters) is not dict:
        raise BadRequest(f"input '{name[:80]}': its parameters are not an object")
    size = parameters.get("binary_data_size")
    if size is None:
        _refuse_shared_memory(parameters)
        return None
    if type(size) is not int:
        raise BadRequest(f"input '{name[:80]}': binary_data_size is not a number")
    return size


def _read_parameters(decoded: Decoded, given: object) -> None:
    if type(given) is not dict:
        raise BadRequest("'parameters' is not an object")
    binary = given.pop("binary_data_output", False)
    if type(binary) is not bool:
        raise BadRequest("'binary_data_output' is neither true nor false")
    decoded.binary = binary
    decoded.priority = min(_natural(given.pop("priority", 0), "priority"), LEVELS)
    if timeout := _natural(given.pop("timeout", 0), "timeout"):
        decoded.timeout = timeout / 1e6
    # Clients send them as they please; nothing but a real sequence needs a server with state.
    if given.pop("sequence_id", 0) not in (0, ""):
        raise BadRequest("sequences are not offered: every request stands for itself")
    given.pop("sequence_start", None)
    given.pop("sequence_end", None)
    decoded.parameters = given


def _read_outputs(decoded: Decoded, entries: object, limits: Limits) -> None:
    if type(entries) is not list or len(entries) > limits.tensors:
        raise BadRequest("'outputs' is not a list of outputs")
    if not entries:
        return
    names: dict[str, None] = {}
    binary = set()
    for entry in entries:
        name = entry.get("name") if type(entry) is dict else None
        if type(name) is not str or not name:
            raise BadRequest("an entry of 'outputs' has no name")
        if name in names:
            raise BadRequest(f"output '{name[:80]}' is asked for twice")
        names[name] = None
        parameters = entry.get("parameters") or _NOTHING
        if type(parameters) is not dict:
            raise BadRequest(f"output '{name[:80]}': its parameters are not an object")
        _refuse_shared_memory(parameters)
        if parameters.get("classification"):
            raise BadRequest("classification is not offered: ask for the scores")
        as_bytes = parameters.get("binary_data", decoded.binary)
        if type(as_bytes) is not bool:
            raise BadRequest(f"output '{name[:80]}': 'binary_data' is neither true nor false")
        if as_bytes:
            binary.add(name)
    decoded.outputs = tuple(names)
    decoded.binary = frozenset(binary)


def _refuse_shared_memory(parameters: Mapping[str, Any]) -> None:
    if "shared_memory_region" in parameters:
        raise BadRequest("shared memory is not offered: send the data")


def _natural(value: object, name: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise BadRequest(f"'{name}' is not a natural number")
    return value
