"""From a source to a dataset: find the reader, name the columns, check that they fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from strop import plugins
from strop.data._base import Column, Reader
from strop.data.dataset import LENGTHS, RESERVED, SLICE, Dataset, Origin, Preprocess, Table
from strop.data.fit import check_columns, missing
from strop.errors import DataError, InputError
from strop.models.user_code import UserFunction, is_user_code, load_function
from strop.records import Signature


def read(
    source: str | Path | Mapping[str, Any],
    signature: Signature,
    *,
    reader: str | None = None,
    preprocess: str | Preprocess | None = None,
    trust: bool = False,
    renames: Mapping[str, str] | None = None,
) -> Dataset:
    """Open a source as examples for a model; values are read later, as they are asked for.

    Parameters
    ----------
    source
        A path, ``file.py:function``, or a dict of arrays. Arrays are called as the inputs, plus
        ``target``, ``group``, ``time``, ``slice:NAME`` and ``NAME:lengths`` (rows first in all).
    signature
        What the model takes. Integers and floats are cast to wider ones, float64 to float32;
        anything else must have the input's dtype.
    reader
        The reader's name, where the path does not tell.
    preprocess
        ``file.py:function`` (or a function) that maps a dict of arrays, some rows of all arrays
        that are not reserved, to a dict of the model's inputs for those rows.
    trust
        Whether code in `source` and `preprocess` may run.
    renames
        Names of arrays by input: ``{"ids": "input_ids"}`` feeds the array `input_ids` to `ids`.

    Raises
    ------
    DataError
        When the source cannot be read or does not fit the signature.
    MissingExtra, TrustError
        When the reader lacks a package, or the user's word.
    """
    given = load_function(preprocess, trust=trust) if isinstance(preprocess, str) else preprocess
    renames = dict(renames or {})
    if not isinstance(source, str | Path):
        columns: dict[str, Column] = {name: _array(name, it) for name, it in source.items()}
        return _dataset(columns, signature, given, renames, "the data", None)
    text = str(Path(source).expanduser())
    chosen = find_reader(text, reader)
    columns = chosen.open(text, None if given is not None else signature, trust=trust)
    if chosen.tabular and given is None:
        from strop.data.table import arrange

        columns = arrange(columns, signature, renames, _is_reserved, Path(text).name)
    path = str(Path(text).resolve())
    stored = chosen.stored and (given is None or isinstance(given, UserFunction))
    origin = Origin(path, chosen.name, renames) if stored else None
    return _dataset(columns, signature, given, renames, Path(text).name, origin)


def reopen(description: Mapping[str, Any]) -> Dataset:
    """The dataset that `Dataset.describe` described, in this or another process.

    Raises
    ------
    DataError
        When the file is gone or has lost rows, or the preprocess function has changed.
    """
    preprocess = description["preprocess"]
    if preprocess is not None:
        found = load_function(preprocess, trust=True)  # trusted when it was first opened
        if found.sha256 != description["preprocess_sha256"]:
            raise DataError(f"'{found.path.name}' has changed since the data were opened")
    opened = read(
        description["path"],
        Signature.from_dict(description["signature"]),
        reader=description["reader"],
        preprocess=preprocess,
        trust=True,
        renames=description["renames"],
    )
    rows = np.asarray(description["rows"], np.int64)
    if rows.size and int(rows.max()) >= len(opened):
        raise DataError(f"{opened.label} has fewer rows than when it was opened")
    return opened.restricted(rows, description["digest"], description["label"])


def find_reader(source: str, name: str | None) -> Reader:
    """The reader called `name`, or the first that knows what `source` is."""
    if name is not None:
        return _make(name)
    if not is_user_code(source) and not Path(source).exists():
        raise DataError(f"there is no file '{source}'", hint="check the path")
    for known in plugins.names("readers"):
        found = _make(known)
        if found.reads(source):
            return found
    if source.lower().endswith(".npy"):
        raise DataError(
            f"'{Path(source).name}' is one array without a name",
            hint="write it with numpy.savez('examples.npz', INPUT=array, target=labels)",
        )
    raise DataError(
        f"no reader knows what '{Path(source).name}' is",
        hint="give .npz, .parquet, .arrow, .csv, a folder of images by class, or file.py:function",
    )


def _make(name: str) -> Reader:
    made: Reader = plugins.find("readers", name)()
    return made


def _dataset(
    columns: Mapping[str, Column],
    signature: Signature,
    preprocess: UserFunction | Preprocess | None,
    renames: Mapping[str, str],
    label: str,
    origin: Origin | None,
) -> Dataset:
    named = _renamed(columns, renames, label)
    wanted = signature.input_names
    others = {name: it for name, it in named.items() if name not in wanted and _is_reserved(name)}
    inputs = {name: it for name, it in named.items() if name not in others}
    ignored: list[str] = []
    if preprocess is None:
        for spec in signature.inputs:
            if spec.name not in inputs:
                raise missing(spec, list(inputs), signature, f"{label} holds")
        ignored = [name for name in inputs if name not in wanted]
        inputs = {name: inputs[name] for name in wanted}
    if not inputs:
        raise DataError(f"{label} holds no array for the model", hint="add one for each input")
    _check_rows({**inputs, **others}, label)
    _check_lengths(inputs, others, label)
    if preprocess is None:
        check_columns(inputs, signature, f"{label} holds")
    table = Table(label, signature, inputs, others, preprocess, origin, tuple(ignored))
    dataset = Dataset(table)
    if preprocess is not None:
        dataset.inputs(np.arange(min(2, len(dataset))))  # fails now rather than in the search
    return dataset


def _renamed(
    columns: Mapping[str, Column], renames: Mapping[str, str], label: str
) -> dict[str, Column]:
    for name, array in renames.items():
        if array not in columns:
            held = ", ".join(f"'{known}'" for known in columns)
            raise InputError(
                f"--input {name}={array} names no array of {label}", hint=f"it holds {held}"
            )
    left = {name: it for name, it in columns.items() if name not in renames.values()}
    # The file's own array of that name gives way: the user has said which one is meant.
    return {**left, **{name: columns[array] for name, array in renames.items()}}


def _is_reserved(name: str) -> bool:
    return name in RESERVED or name.startswith(SLICE) or name.endswith(LENGTHS)


def _check_rows(columns: Mapping[str, Column], label: str) -> None:
    counts: dict[str, int] = {}
    for name, column in columns.items():
        if not column.shape:
            raise DataError(
                f"'{name}' in {label} is a single value", hint="give one for each example"
            )
        counts[name] = column.shape[0]
    first, count = next(iter(counts.items()))
    for name, other in counts.items():
        if other != count:
            raise DataError(
                f"'{first}' has {count} rows but '{name}' has {other} in {label}",
                hint="every array has one row an example",
            )
    if count == 0:
        raise DataError(
            f"{label} holds no examples",
            hint="give arrays with at least one row; a few hundred can prove something",
        )


def _check_lengths(inputs: Mapping[str, Column], others: Mapping[str, Column], label: str) -> None:
    for name, column in others.items():
        flat = name in ("group", "time") or name.startswith(SLICE) or name.endswith(LENGTHS)
        if flat and len(column.shape) != 1:
            raise DataError(
                f"'{name}' in {label} has the shape {list(column.shape)}",
                hint="give one value an example",
            )
        if not name.endswith(LENGTHS):
            continue
        padded = inputs.get(name.removesuffix(LENGTHS))
        if padded is None:
            raise DataError(f"'{name}' in {label} belongs to no input", hint="rename or drop it")
        values = np.asarray(column[np.arange(column.shape[0])])
        longest = padded.shape[1] if len(padded.shape) > 1 else None
        if values.dtype.kind not in "iu" or (
            longest is not None and (int(values.min()) < 0 or int(values.max()) > longest)
        ):
            raise DataError(
                f"'{name}' in {label} holds something else than lengths from 0 to {longest}",
                hint="give the number of real entries in each row, as integers",
            )


def _array(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype == object and not all(isinstance(value, str) for value in array.ravel()):
        raise DataError(
            f"'{name}' in the data cannot be made an array of numbers or text",
            hint="pad rows of different lengths, and give their lengths as 'NAME:lengths'",
        )
    return array
