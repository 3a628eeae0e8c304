"""The first examples of a source, before there is a signature to check them against."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from strop.data._base import Arrays
from strop.data.dataset import LENGTHS, RESERVED, SLICE, Preprocess, apply
from strop.data.reading import find_reader
from strop.errors import DataError
from strop.models.user_code import load_function


def peek(
    source: str | Path | Mapping[str, Any],
    count: int,
    *,
    reader: str | None = None,
    preprocess: str | Preprocess | None = None,
    trust: bool = False,
    renames: Mapping[str, str] | None = None,
) -> Arrays:
    """Up to `count` rows of everything that may be an input: what a module is traced with.

    Parameters are those of :func:`strop.data.read`.

    Raises
    ------
    DataError
        When the source cannot be read, or holds nothing but targets and the like.
    """
    if isinstance(source, str | Path):
        columns: Mapping[str, Any] = find_reader(str(source), reader).open(
            str(source), None, trust=trust
        )
    else:
        columns = {name: np.asarray(values) for name, values in source.items()}
    arrays = {
        name: np.asarray(column[np.arange(min(count, column.shape[0]))])
        for name, column in columns.items()
        if name not in RESERVED and not name.startswith(SLICE) and not name.endswith(LENGTHS)
    }
    if not arrays:
        raise DataError("the data hold no array that could be an input", hint="name one after it")
    inputs = {array: name for name, array in (renames or {}).items()}
    arrays = {inputs.get(name, name): values for name, values in arrays.items()}
    given = load_function(preprocess, trust=trust) if isinstance(preprocess, str) else preprocess
    return arrays if given is None else apply(given, arrays)
