"""Requests, ready to be written to a socket: made once, sent many times."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from strop.errors import DataError, InputError
from strop.loadtest.target import Target, Tensor

Format = Literal["binary", "json"]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    "BYTES": np.dtype(np.object_),
}

_MOST_PAYLOADS = 256
_MOST_BYTES = 256 * 2**20
_FREE_DIMENSION = 8
_LARGEST_INTEGER = 127


@dataclass(frozen=True)
class Payloads:
    """Requests to be sent in turn.

    Attributes
    ----------
    requests
        Head and body of each, as the socket takes them.
    rows
        Examples in one request.
    origin
        Where the values come from, in words.
    """

    requests: tuple[bytes, ...]
    rows: int
    origin: str


def from_body(target: Target, body: bytes, name: str) -> Payloads:
    """One request that posts `body` as it is to the path of the URL, whatever the protocol."""
    head = target.head(target.path, len(body), ("Content-Type", "application/json"))
    return Payloads((head + body,), 1, f"the bytes of {name}")


def from_model(
    target: Target,
    inputs: Sequence[Tensor],
    *,
    data: Path | None = None,
    rows: int = 1,
    shapes: dict[str, list[int | str]] | None = None,
    form: Format = "binary",
    seed: int = 0,
) -> Payloads:
    """Requests to infer, from the examples in `data`, or random ones within the inputs' datatypes.

    Parameters
    ----------
    data
        An ``.npz`` file with one array an input; a request takes `rows` of its rows, in turn.
    shapes
        What random inputs have for free dimensions, by name; the first is `rows` otherwise, and
        any other 8.

    Raises
    ------
    InputError
        When a datatype is unknown or the examples do not fit the inputs.
    """
    for spec in inputs:
        if spec.datatype not in DTYPES:
            raise InputError(
                f"input '{spec.name}' is {spec.datatype}, which cannot be made here",
                hint="give the request's body with --body FILE",
            )
    if data is None:
        draw, origin = _random(inputs, rows, shapes or {}, seed)
    else:
        draw, origin = _stored(inputs, rows, data)
    encode = _binary if form == "binary" else _json
    requests: list[bytes] = []
    size = 0
    while (arrays := draw(len(requests))) is not None:
        requests.append(encode(target, inputs, arrays))
        size += len(requests[-1])
        if len(requests) >= _MOST_PAYLOADS or size >= _MOST_BYTES:
            break
    return Payloads(tuple(requests), rows, origin)


Draw = Callable[[int], list[np.ndarray] | None]


def _random(
    inputs: Sequence[Tensor], rows: int, shapes: dict[str, list[int | str]], seed: int
) -> tuple[Draw, str]:
    sizes = {}
    for spec in inputs:
        given = shapes.get(spec.name)
        if given is not None:
            shape = tuple(int(dim) for dim in given if isinstance(dim, int) or dim.isdigit())
            if len(shape) != len(given):
                raise InputError(
                    f"the shape {'x'.join(map(str, given))} of '{spec.name}' is not all numbers",
                    hint=f"write --shape {spec.name}=1x128",
                )
        else:
            shape = tuple(
                dim if dim >= 0 else rows if axis == 0 else _FREE_DIMENSION
                for axis, dim in enumerate(spec.shape)
            )
        sizes[spec.name] = shape
    if unknown := set(shapes) - set(sizes):
        raise InputError(
            f"the model has no input '{min(unknown)}'; it has {', '.join(sizes) or 'none'}"
        )

    def draw(number: int) -> list[np.ndarray]:
        generator = np.random.default_rng([seed, number])
        return [_values(generator, spec.datatype, sizes[spec.name]) for spec in inputs]

    words = ", ".join(
        f"{spec.name} {spec.datatype}{list(sizes[spec.name])}"
        + (f" of {_LIMITS[kind]}" if (kind := _kind(spec.datatype)) else "")
        for spec in inputs
    )
    return draw, f"random, seed {seed}: {words}"


_LIMITS = {
    "f": "standard normal values",
    "i": f"integers from 0 to {_LARGEST_INTEGER}",
    "b": "bytes from 0 to 255",
    "B": "true and false",
    "O": "eight letters each",
}


def _kind(datatype: str) -> str:
    if datatype.startswith("FP"):
        return "f"
    return {"UINT8": "b", "BOOL": "B", "BYTES": "O"}.get(datatype, "i")


def _values(generator: np.random.Generator, datatype: str, shape: tuple[int, ...]) -> np.ndarray:
    dtype, kind = DTYPES[datatype], _kind(datatype)
    if kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    if kind == "O":
        letters = generator.integers(97, 123, (*shape, 8), np.uint8)
        words = np.empty(shape, np.object_)
        for where in np.ndindex(shape):
            words[where] = letters[where].tobytes()
        return words
    # Wider integers are mostly indices, and the size of what they index is not known here.
    most = {"b": 255, "B": 1}.get(kind, _LARGEST_INTEGER)
    return generator.integers(0, most, shape, np.int64, endpoint=True).astype(dtype)


def _stored(inputs: Sequence[Tensor], rows: int, data: Path) -> tuple[Draw, str]:
    from strop.data.npz import NpzReader

    if data.suffix.lower() != ".npz":
        raise InputError(f"'{data.name}' is not an .npz file", hint="write it with numpy.savez")
    columns = NpzReader().open(str(data), None, trust=False)
    arrays = []
    for spec in inputs:
        if spec.name not in columns:
            raise DataError(
                f"'{data.name}' holds no array '{spec.name}'; it holds {', '.join(columns)}",
                hint="name the arrays as the model's inputs",
            )
        array = np.asarray(columns[spec.name])
        if array.ndim != len(spec.shape) or any(
            dim not in (-1, size)
            for dim, size in zip(spec.shape[1:], array.shape[1:], strict=False)
        ):
            raise DataError(
                f"'{spec.name}' in {data.name} is {array.dtype}{list(array.shape)}, but the model "
                f"takes {spec.datatype}{list(spec.shape)}"
            )
        if spec.shape and spec.shape[0] not in (-1, rows):
            raise InputError(
                f"'{spec.name}' takes exactly {spec.shape[0]} rows a request, not {rows}",
                hint=f"pass --batch {spec.shape[0]}",
            )
        arrays.append(_cast(array, spec, data))
    lengths = {len(array) for array in arrays}
    count = min(lengths, default=0) // rows
    if len(lengths) != 1 or not count:
        raise DataError(
            f"the arrays in {data.name} hold {', '.join(map(str, sorted(lengths)))} rows; "
            f"every input needs the same number, and at least {rows}"
        )

    def draw(number: int) -> list[np.ndarray] | None:
        if number >= count:
            return None
        return [array[number * rows : (number + 1) * rows] for array in arrays]

    return draw, f"{data.name}, the first {min(count, _MOST_PAYLOADS) * rows} rows in turn"


def _cast(array: np.ndarray, spec: Tensor, data: Path) -> np.ndarray:
    if spec.datatype == "BYTES":
        words = np.empty(array.shape, np.object_)
        for where in np.ndindex(array.shape):
            item: Any = array[where]
            words[where] = item if isinstance(item, bytes) else str(item).encode()
        return words
    dtype = DTYPES[spec.datatype]
    if array.dtype.kind in "USO" or not np.can_cast(array.dtype, dtype, "same_kind"):
        raise DataError(
            f"'{spec.name}' in {data.name} is {array.dtype}, but the model takes {spec.datatype}",
            hint=f"save it as {dtype.name}",
        )
    return array.astype(dtype, copy=False)


def _binary(target: Target, inputs: Sequence[Tensor], arrays: list[np.ndarray]) -> bytes:
    blobs = [_packed(array) for array in arrays]
    described = [
        {
            "name": spec.name,
            "datatype": spec.datatype,
            "shape": list(array.shape),
            "parameters": {"binary_data_size": len(blob)},
        }
        for spec, array, blob in zip(inputs, arrays, blobs, strict=True)
    ]
    header = _dumps({"inputs": described, "parameters": {"binary_data_output": True}})
    body = header + b"".join(blobs)
    head = target.head(
        f"{target.model_path}/infer",
        len(body),
        ("Content-Type", "application/octet-stream"),
        ("Inference-Header-Content-Length", str(len(header))),
    )
    return head + body


def _packed(array: np.ndarray) -> bytes:
    if array.dtype.kind == "O":
        return b"".join(struct.pack("<I", len(item)) + item for item in array.reshape(-1))
    return np.ascontiguousarray(array).tobytes()


def _json(target: Target, inputs: Sequence[Tensor], arrays: list[np.ndarray]) -> bytes:
    described = [
        {
            "name": spec.name,
            "datatype": spec.datatype,
            "shape": list(array.shape),
            "data": _plain(array, spec.name),
        }
        for spec, array in zip(inputs, arrays, strict=True)
    ]
    body = _dumps({"inputs": described})
    head = target.head(
        f"{target.model_path}/infer", len(body), ("Content-Type", "application/json")
    )
    return head + body


def _plain(array: np.ndarray, name: str) -> list[Any]:
    if array.dtype.kind == "O":
        return [item.decode("utf-8", "replace") for item in array.reshape(-1)]
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(
            f"'{name}' holds NaN or infinities, which JSON has no words for",
            hint="leave out --json-tensors",
        )
    values: list[Any] = array.reshape(-1).tolist()
    return values


def _dumps(values: Any) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode()
