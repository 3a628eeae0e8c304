"""Tables: one column a number, or a flat list of numbers, for each example."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from strop.data._base import Column, Reader
from strop.errors import DataError
from strop.records import Signature, TensorSpec


class CsvReader(Reader):
    """Reads comma- or tab-separated text with a header into memory.

    A column is int64 where every field is an integer, else float64 where every field is a number
    (empty fields are NaN), else text.
    """

    name: ClassVar[str] = "csv"
    tabular: ClassVar[bool] = True

    def reads(self, source: str) -> bool:
        return source.lower().endswith((".csv", ".tsv"))

    def open(self, source: str, signature: Signature | None, *, trust: bool) -> dict[str, Column]:
        path = Path(source)
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                lines = csv.reader(file, delimiter=delimiter, strict=True)
                header = next(lines, [])
                rows = []
                for row in lines:
                    if row and len(row) != len(header):
                        raise DataError(
                            f"line {lines.line_num} of {path.name} has {len(row)} fields, the "
                            f"header {len(header)}",
                            hint="give every line as many; quote a field that holds a comma",
                        )
                    rows += [row] if row else []
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"'{path.name}' cannot be read: {error}") from error
        if len(set(header)) != len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise DataError(f"{path.name} has two columns called '{twice}'", hint="rename one")
        if not header or not rows:
            raise DataError(f"{path.name} holds no examples", hint="a header comes first")
        return {
            name: _parsed([row[index].strip() for row in rows]) for index, name in enumerate(header)
        }


def arrange(
    columns: Mapping[str, Column],
    signature: Signature,
    renames: Mapping[str, str],
    is_reserved: Callable[[str], bool],
    label: str = "the table",
) -> dict[str, Column]:
    """Make a table's columns the inputs of a model, as far as that is beyond doubt.

    - ``x.0, x.1, …`` side by side are the input `x` of shape [n, k].
    - All numeric columns that are not reserved, side by side in the order of the file, are the
      only input of a model, when that is [n, k] and there are k of them.
    - A column of numbers is an input [n, 1]; flat lists take the shape of their input.
    - Numbers are cast to the input's dtype where every value survives: a table does not say
      whether ``1`` is an integer.

    Raises
    ------
    DataError
        When the columns of a table of single values can only be meant as the one input, and are
        too few, too many or text.
    """
    result = dict(columns)
    taken = set(renames.values())
    for spec in signature.inputs:
        name = renames.get(spec.name, spec.name)
        if name not in result:
            parts = _parts(result, name)
            if not parts and len(signature.inputs) == 1 and not taken:
                parts = [it for it in result if not is_reserved(it)]
                width = _width(spec)
                text = [it for it in parts if result[it].dtype.kind not in "biuf"]
                flat = len(spec.shape or ()) == 2 and all(
                    len(result[it].shape) == 1 for it in parts
                )
                if flat and len(parts) > 1 and (text or width not in (None, len(parts))):
                    raise _unfit(spec, parts, text, label)
                if not flat or text or width not in (None, len(parts)):
                    parts = []
            if not parts:
                continue
            stacked = np.stack([np.asarray(result.pop(it)[:]) for it in parts], axis=1)
            result[name] = stacked
        result[name] = _shaped(np.asarray(result[name][:]), spec)
    return result


def _unfit(spec: TensorSpec, parts: list[str], text: list[str], label: str) -> DataError:
    """The error for columns that cannot be the one input, with what may be meant instead."""
    width = _width(spec)
    wanted = "columns of numbers" if width is None else f"{width} columns of numbers"
    held = f"{len(parts)} that are not reserved, '{parts[0]}' to '{parts[-1]}'"
    if text:
        held += f", of which '{text[0]}' holds text"
    return DataError(
        f"input '{spec.name}' takes {wanted}, and {label} holds {held}",
        hint="call the column of right answers 'target' and take out what is no input, or call the "
        f"inputs' columns {spec.name}.0, {spec.name}.1, …",
    )


def _parts(columns: Mapping[str, Column], name: str) -> list[str]:
    parts: list[str] = []
    while f"{name}.{len(parts)}" in columns:
        parts.append(f"{name}.{len(parts)}")
    return parts


def _shaped(values: np.ndarray, spec: TensorSpec) -> np.ndarray:
    if spec.shape is not None and values.ndim != len(spec.shape):
        tail = spec.shape[1:]
        size = int(np.prod(values.shape[1:], dtype=np.int64))
        if all(isinstance(dim, int) for dim in tail) and size == math.prod(map(_int, tail)):
            values = values.reshape(len(values), *map(_int, tail))
        elif values.ndim == 1 and len(tail) == 1 and not isinstance(tail[0], int):
            values = values[:, None]
    if spec.dtype.startswith(("int", "uint", "float", "bool")) and values.dtype.kind in "biuf":
        # Both directions: 1,2,3 may stand for floats, and 1.0 for an integer.
        with np.errstate(invalid="ignore", over="ignore"):
            cast = values.astype(spec.dtype)
            floats = cast.dtype.kind == "f" and values.dtype.kind == "f"
            if floats or np.array_equal(cast.astype(values.dtype), values):
                return cast
    return values


def _width(spec: TensorSpec) -> int | None:
    last = spec.shape[-1] if spec.shape else None
    return last if isinstance(last, int) else None


def _int(dim: int | str | None) -> int:
    assert isinstance(dim, int)
    return dim


def _parsed(fields: list[str]) -> np.ndarray:
    try:
        return np.array([int(field) for field in fields], np.int64)
    except (ValueError, OverflowError):
        pass
    try:
        return np.array([float(field) if field else math.nan for field in fields])
    except ValueError:
        return np.array(fields)
