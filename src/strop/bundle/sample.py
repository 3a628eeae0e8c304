"""A few examples with the original's outputs: what lets a bundle be checked without the data."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from strop.errors import BundleError, StropError
from strop.records import Signature

LIMIT = 4 * 2**20
"""Bytes of inputs and outputs beyond which examples are left out."""

Arrays = Mapping[str, np.ndarray]


class Sample(NamedTuple):
    """Inputs, and the outputs that the original gave for them: arrays by name, rows first."""

    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))


def cap(inputs: Arrays, outputs: Arrays, limit: int = LIMIT) -> Sample:
    """As many examples as fit the limit, at least one.

    Examples
    --------
    >>> x = np.zeros((8, 100), np.float32)
    >>> cap({"x": x}, {"y": x}, limit=1600).rows
    2
    """
    both = [*inputs.values(), *outputs.values()]
    rows = {len(array) for array in both}
    if len(rows) != 1:  # outputs that are no rows of examples cannot be cut
        return Sample(dict(inputs), dict(outputs))
    count = next(iter(rows))
    while count > 1 and sum(array[:count].nbytes for array in both) > limit:
        count //= 2
    return Sample(
        {name: array[:count] for name, array in inputs.items()},
        {name: array[:count] for name, array in outputs.items()},
    )


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write arrays to a compressed ``.npz``; the same arrays give the same bytes.

    Raises
    ------
    StropError
        When an array holds Python objects other than text, which only pickle could write.
    """
    plain = {}
    for name, array in arrays.items():
        values = np.asarray(array)
        if values.dtype.kind == "T" or (
            values.dtype == object and all(isinstance(it, str) for it in values.ravel())
        ):
            values = values.astype(np.str_)
        if values.dtype.hasobject:
            raise StropError(f"the array '{name}' holds Python objects and cannot be bundled")
        plain[name] = values
    with path.open("wb") as stream:
        np.savez_compressed(stream, **plain)  # type: ignore[arg-type]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz``; none may hold pickled objects.

    Raises
    ------
    BundleError
        When the file is damaged, or holds something else.
    """
    try:
        # NumPy leaves a file open that it opens itself and cannot read.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BundleError(f"the arrays of '{path.name}' cannot be read: {error}") from error


def pack(sample: Sample) -> dict[str, np.ndarray]:
    """The sample as arrays of one file: ``inputs/NAME`` and ``outputs/NAME``."""
    return {
        **{f"inputs/{name}": array for name, array in sample.inputs.items()},
        **{f"outputs/{name}": array for name, array in sample.outputs.items()},
    }


def unpack(arrays: Arrays) -> Sample:
    """The sample that :func:`pack` has packed.

    Raises
    ------
    BundleError
        When there are no inputs, or they are no rows of examples.
    """
    sides: list[dict[str, np.ndarray]] = [
        {
            name.removeprefix(f"{side}/"): array
            for name, array in arrays.items()
            if name.startswith(f"{side}/")
        }
        for side in ("inputs", "outputs")
    ]
    if not sides[0] or any(not array.ndim or not len(array) for array in sides[0].values()):
        raise BundleError("the sample holds no examples")
    return Sample(sides[0], sides[1])


def fixed_batch(signature: Signature) -> int | None:
    """The first dimension of the inputs where the model fixes it; None where it is free."""
    firsts = {spec.shape[0] for spec in signature.inputs if spec.shape}
    fixed = {first for first in firsts if isinstance(first, int)}
    return next(iter(fixed)) if len(fixed) == 1 else None


def repeated(inputs: Arrays, batch: int) -> dict[str, np.ndarray]:
    """One batch of `batch` rows, the given rows over and over."""
    return {name: array[np.arange(batch) % len(array)] for name, array in inputs.items()}
