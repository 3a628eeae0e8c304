"""What rows hold, boiled down: digests, duplicates, values that are not finite."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strop.data._base import Column, Fingerprinted

NEAR_VALUES = 16
"""Rows of fewer numbers than this count as duplicates only when they are equal: three digits
tell two photographs apart, but not two patients known by age and weight."""

_CHUNK_BYTES = 32 << 20
_MANTISSA = 10
_DIGEST = 16


@dataclass(frozen=True)
class Content:
    """One pass over all rows of a source.

    Attributes
    ----------
    digests
        uint8[n, 16]; equal for rows whose columns, targets and all, hold equal bytes.
    codes
        int64[n]; equal for rows whose inputs are duplicates (see :func:`scan`).
    nonfinite
        By input, bool[n]: whether a row holds NaN or infinity.
    """

    digests: NDArray[np.uint8]
    codes: NDArray[np.int64]
    nonfinite: Mapping[str, NDArray[np.bool_]]


def scan(inputs: Mapping[str, Column], others: Mapping[str, Column]) -> Content:
    """Read every row once, in chunks of some 32 MB.

    Two rows are duplicates when all their inputs are equal, or, for inputs of 16 floats and more,
    when they are equal after rounding to 11 significant bits (three digits): this finds copies
    that went through float16, exactly. Copies that were re-encoded, resized, shifted or printed
    with few digits are not found.

    Parameters
    ----------
    inputs, others
        The columns that models see, and those that they do not (targets, groups …).
    """
    columns = {**inputs, **others}
    count = min(column.shape[0] for column in columns.values())
    digests = np.empty((count, _DIGEST), np.uint8)
    codes = np.empty(count, np.int64)
    nonfinite = {name: np.zeros(count, bool) for name in inputs}
    size = max(1, _CHUNK_BYTES // max(1, sum(map(_row_bytes, columns.values()))))
    for start in range(0, count, size):
        rows = np.arange(start, min(start + size, count))
        exact: list[Iterator[bytes]] = []
        near: list[Iterator[bytes]] = []
        for name, column in columns.items():
            if isinstance(column, Fingerprinted):
                exact.append(column.fingerprints(rows))
                if name in inputs:
                    near.append(column.fingerprints(rows))
                continue
            values = np.asarray(column[rows])
            exact.append(_bytes_by_row(values))
            if name in inputs:
                near.append(_bytes_by_row(_rounded(values)))
                nonfinite[name][rows] = _nonfinite(values)
        # Rows of one chunk after another: the columns' bytes travel in step.
        for row, parts in zip(rows, zip(*exact, strict=True), strict=True):
            digests[row] = np.frombuffer(_hash(parts), np.uint8)
        for row, parts in zip(rows, zip(*near, strict=True), strict=True):
            codes[row] = _code(_hash(parts))
    return Content(digests, codes, nonfinite)


def codes_of(values: np.ndarray) -> NDArray[np.int64]:
    """A number for each value, the same in every file: int64[n] from int, text or float [n].

    >>> int(codes_of(np.array([7], np.int32))[0]) == int(codes_of(np.array([7], np.uint8))[0])
    True
    """
    known: dict[Any, int] = {}
    codes = np.empty(len(values), np.int64)
    for row, value in enumerate(values.tolist()):
        if value not in known:
            known[value] = _code(_hash([str(value).encode()]))
        codes[row] = known[value]
    return codes


def uniform(codes: NDArray[np.int64], salt: str) -> NDArray[np.float64]:
    """A number in [0, 1) for each code, by salted blake2b: float64[n]."""
    key = hashlib.blake2b(salt.encode(), digest_size=32).digest()
    return np.array(
        [
            int.from_bytes(
                hashlib.blake2b(code.to_bytes(8, "little"), key=key, digest_size=8).digest(),
                "little",
            )
            / 2**64
            for code in codes.tolist()
        ],
        np.float64,
    )


def _hash(parts: Any) -> bytes:
    total = hashlib.blake2b(digest_size=_DIGEST)
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.digest()


def _code(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "little") >> 1  # non-negative as int64


def _row_bytes(column: Column) -> int:
    return int(column.dtype.itemsize * np.prod(column.shape[1:], dtype=np.int64))


def _bytes_by_row(values: np.ndarray) -> Iterator[bytes]:
    if values.dtype.kind in "OUT":
        for row in values:
            yield "\0".join(np.atleast_1d(row).ravel().astype(str).tolist()).encode()
        return
    flat = np.ascontiguousarray(values).reshape(len(values), -1)
    for row in flat:
        yield row.tobytes()


def _rounded(values: np.ndarray) -> np.ndarray:
    """Floats with 11 significant bits, all others as they are."""
    if values.dtype.kind != "f":
        return values
    size = int(np.prod(values.shape[1:], dtype=np.int64))
    if size < NEAR_VALUES:
        return values + 0.0  # −0 becomes 0
    with np.errstate(over="ignore"):
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    drop = 23 - _MANTISSA
    # Ties to even, as casts to float16 round; NaN must not be carried into infinity.
    even = (bits >> np.uint32(drop)) & np.uint32(1)
    up = bits + (np.uint32((1 << (drop - 1)) - 1) + even)
    rounded = (up & ~np.uint32((1 << drop) - 1)).view(np.float32)
    return np.where(np.isfinite(values), rounded + np.float32(0), values.astype(np.float32))


def _nonfinite(values: np.ndarray) -> NDArray[np.bool_]:
    if values.dtype.kind != "f":
        return np.zeros(len(values), bool)
    found: NDArray[np.bool_] = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    return found
