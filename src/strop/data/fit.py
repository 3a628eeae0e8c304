"""Whether arrays fit the inputs of a model, told in the words of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from strop.data._base import Arrays, Column
from strop.data.dtypes import cast, cast_of
from strop.errors import DataError
from strop.records import Signature, TensorSpec


def conform(
    arrays: Mapping[str, np.ndarray], signature: Signature, count: int, giver: str
) -> Arrays:
    """The signature's inputs out of `arrays`, cast where nothing is lost.

    Parameters
    ----------
    arrays
        A batch: rows along dimension 0.
    count
        How many rows it must have.
    giver
        Who gave the arrays, with its verb: ``examples.npz holds``.

    Raises
    ------
    DataError
        When an input is missing or does not fit.
    """
    for spec in signature.inputs:
        if spec.name not in arrays:
            raise missing(spec, list(arrays), signature, giver)
    check_columns(arrays, signature, giver)
    result = {}
    for spec in signature.inputs:
        values = arrays[spec.name]
        if values.shape[:1] != (count,):
            rows = len(values) if values.ndim else 1
            raise DataError(
                f"{giver} {rows} rows of '{spec.name}' for {count} examples",
                hint="keep one row an example, in order",
            )
        try:
            result[spec.name] = cast(values, spec.dtype)
        except OverflowError as error:
            raise _mismatch(spec, values, giver, f"{error}; cast it to a type that holds") from None
    return result


def check_columns(columns: Mapping[str, Column], signature: Signature, giver: str) -> None:
    """Check types and shapes of the columns that feed inputs; no value is read.

    Raises
    ------
    DataError
        When one does not fit: another kind of number, another rank, another size.
    """
    symbols: dict[str, tuple[int, str]] = {}
    for spec in signature.inputs:
        column = columns[spec.name]
        if cast_of(column.dtype, spec.dtype) == "unsafe":
            raise _mismatch(spec, column, giver, _cast_advice(column.dtype, spec.dtype))
        if spec.shape is None:
            continue
        if len(column.shape) != len(spec.shape):
            raise _mismatch(spec, column, giver, _rank_advice(column.shape, len(spec.shape)))
        for axis, (size, dim) in enumerate(zip(column.shape, spec.shape, strict=True)):
            if axis == 0:  # rows: whatever batch the model takes, the data may hold any number
                continue
            if isinstance(dim, int) and size != dim:
                raise _mismatch(spec, column, giver, "reshape or resize it (--preprocess)")
            if isinstance(dim, str):
                known, first = symbols.setdefault(dim, (size, spec.name))
                if known != size:
                    raise DataError(
                        f"'{dim}' is {known} in input '{first}' but {size} in '{spec.name}'",
                        hint="pad the arrays to one size",
                    )


def missing(spec: TensorSpec, names: list[str], signature: Signature, giver: str) -> DataError:
    """The error for an input without an array, with the rename that may be meant."""
    free = [name for name in names if name not in signature.input_names]
    held = ", ".join(f"'{name}'" for name in names) or "nothing"
    hint = f"name the array with --input {spec.name}={free[0] if len(free) == 1 else 'ARRAY'}"
    if not free or "gives" in giver:
        hint = f"add an array called '{spec.name}'"
    return DataError(f"input '{spec.name}' is not there: {giver} {held}", hint=hint)


def _mismatch(spec: TensorSpec, column: Column, giver: str, advice: str) -> DataError:
    name = spec.name
    dims = (
        "..."
        if spec.shape is None
        else ", ".join(
            str(dim) if isinstance(dim, int) and axis else "?"
            for axis, dim in enumerate(spec.shape)
        )
    )
    kind = "text" if column.dtype.kind in "OUT" else column.dtype.name
    other = f", or name another array with --input {name}=…" if giver.endswith("holds") else ""
    return DataError(
        f"input '{name}' is {spec.dtype}[{dims}] but {giver} {kind}{list(column.shape)}",
        hint=advice + other,
    )


def _cast_advice(given: np.dtype[Any], wanted: str) -> str:
    if given == np.uint8 and wanted.startswith("float"):
        return "scale and cast it as in training (often / 255), there or with --preprocess"
    if given.kind == "O":
        return "convert it with --preprocess file.py:fn"
    return "cast it"


def _rank_advice(shape: tuple[int, ...], rank: int) -> str:
    if len(shape) == rank - 1:
        return "add the missing dimension (rows come first)"
    return "reshape it (rows come first)"
