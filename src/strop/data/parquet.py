"""Parquet and Arrow files, by pyarrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from strop.data._base import Column, Reader
from strop.errors import DataError, MissingExtra
from strop.records import Signature

_PARQUET = (".parquet", ".pq")
_ARROW = (".arrow", ".feather", ".ipc")


class ParquetReader(Reader):
    """Reads numbers, text, lists of one length and fixed-shape tensors, all into memory."""

    name: ClassVar[str] = "parquet"
    tabular: ClassVar[bool] = True

    def reads(self, source: str) -> bool:
        return source.lower().endswith(_PARQUET + _ARROW)

    def open(self, source: str, signature: Signature | None, *, trust: bool) -> dict[str, Column]:
        try:
            import pyarrow
            import pyarrow.ipc
            import pyarrow.parquet
        except ImportError:
            raise MissingExtra("pyarrow", extra="data") from None
        path = Path(source)
        try:
            if path.suffix.lower() in _ARROW:
                with pyarrow.memory_map(str(path)) as file:
                    table = _read_arrow(pyarrow.ipc, file)
                    return {name: _array(path, name, table[name]) for name in table.column_names}
            table = pyarrow.parquet.ParquetFile(path).read()
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError(f"'{path.name}' cannot be read: {error}") from error
        return {name: _array(path, name, table[name]) for name in table.column_names}


def _read_arrow(ipc: Any, file: Any) -> Any:
    magic = file.read(6)
    file.seek(0)
    # Files begin with a magic word, streams with a message.
    return (ipc.open_file if magic == b"ARROW1" else ipc.open_stream)(file).read_all()


def _array(path: Path, name: str, chunked: Any) -> np.ndarray:
    import pyarrow
    import pyarrow.types as types

    if chunked.null_count:
        if not types.is_floating(chunked.type):
            raise DataError(
                f"'{name}' in {path.name} has {chunked.null_count} rows without a value",
                hint="fill or drop them",
            )
        return np.asarray(chunked.to_numpy(zero_copy_only=False))
    kind = chunked.type
    if isinstance(kind, pyarrow.FixedShapeTensorType):
        parts = [chunk.to_numpy_ndarray() for chunk in chunked.chunks]
        return np.concatenate(parts) if parts else np.empty((0, *kind.shape))
    values = chunked.combine_chunks()
    if isinstance(values, pyarrow.ChunkedArray):  # no chunk at all, or too big for one
        values = pyarrow.concat_arrays(values.chunks or [pyarrow.array([], kind)])
    return _nested(path, name, values).copy()  # the mapped file is closed afterwards


def _nested(path: Path, name: str, values: Any) -> np.ndarray:
    import pyarrow.compute
    import pyarrow.types as types

    kind = values.type
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        lengths = pyarrow.compute.list_value_length(values).to_numpy(zero_copy_only=False)
        if len(lengths) and lengths.min() != lengths.max():
            raise DataError(
                f"the lists of '{name}' in {path.name} have {lengths.min()} to {lengths.max()} "
                "entries",
                hint=f"pad them to one length and give their lengths as '{name}:lengths'",
            )
        inner = _nested(path, name, values.flatten())
        size = int(lengths[0]) if len(lengths) else 0
        return inner.reshape(len(values), size, *inner.shape[1:])
    if values.null_count:
        raise DataError(
            f"'{name}' in {path.name} has entries without a value", hint="fill or drop them"
        )
    if types.is_string(kind) or types.is_large_string(kind) or types.is_dictionary(kind):
        return np.array(values.to_pylist(), dtype=np.str_)
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return np.asarray(values.to_numpy(zero_copy_only=False))
    if types.is_temporal(kind):
        return np.asarray(values.to_numpy(zero_copy_only=False)).astype("datetime64[us]")
    raise DataError(
        f"'{name}' in {path.name} is of the type {kind}, which is neither numbers nor text",
        hint="leave the column out, or convert it",
    )
