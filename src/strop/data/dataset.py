"""Named arrays, lazily read: what a model is calibrated, chosen and judged on."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from strop.data._base import Arrays, Column, Rows
from strop.data.content import Content, codes_of, scan
from strop.data.fit import conform
from strop.errors import DataError
from strop.models.user_code import UserFunction
from strop.records import Signature

RESERVED = ("target", "group", "time")
"""Arrays that are no inputs, unless the model has an input of that name."""
SLICE = "slice:"
LENGTHS = ":lengths"
_BATCH = 64

Preprocess = Callable[[Arrays], Mapping[str, ArrayLike]]


@dataclass(frozen=True)
class Origin:
    """What another process needs to open the same columns again."""

    path: str
    reader: str
    renames: Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """All rows of one source; shared by the datasets that choose rows from it.

    Attributes
    ----------
    label
        The source as messages name it: the file's name.
    inputs
        The columns that a model, or the preprocess function, sees.
    others
        ``target``, ``group``, ``time``, ``slice:NAME`` and ``NAME:lengths``, as far as given.
    ignored
        Arrays that nothing uses.
    origin
        None for what lives in memory only.
    """

    label: str
    signature: Signature
    inputs: Mapping[str, Column]
    others: Mapping[str, Column]
    preprocess: UserFunction | Preprocess | None = None
    origin: Origin | None = None
    ignored: tuple[str, ...] = ()

    @functools.cached_property
    def content(self) -> Content:
        """Digests and duplicates of all rows: the first use reads everything once."""
        return scan(self.inputs, self.others)

    @property
    def count(self) -> int:
        """How many rows the source has."""
        return int(next(iter(self.inputs.values())).shape[0])


class Dataset:
    """Rows of a source, with inputs named and typed as a model's signature says.

    Made by `strop.data.read`. Rows are read when asked for. The public row numbers count within
    this dataset; :attr:`rows` gives their place in the source.

    Examples
    --------
    >>> from strop.data import read
    >>> from strop.records import TensorSpec
    >>> x = TensorSpec(name="x", dtype="float32", shape=("n", 2))
    >>> arrays = {"x": np.eye(2, dtype=np.float32), "target": np.array([0, 1])}
    >>> data = read(arrays, Signature(inputs=(x,), outputs=()))
    >>> len(data), data.inputs([1])["x"].tolist(), data.targets().tolist()
    (2, [[0.0, 1.0]], [0, 1])
    """

    def __init__(
        self, table: Table, rows: Rows | None = None, *, digest: str | None = None
    ) -> None:
        self._table = table
        self._rows = np.arange(table.count) if rows is None else np.asarray(rows, np.int64)
        self._digest = digest

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"<Dataset {self._table.label}: {len(self)} of {self._table.count} examples>"

    @property
    def label(self) -> str:
        """The source as messages name it: a file's name, or ``the data``."""
        return self._table.label

    @property
    def signature(self) -> Signature:
        """The signature that the inputs fit."""
        return self._table.signature

    @property
    def rows(self) -> Rows:
        """int64[n]: row numbers in the source."""
        return self._rows

    @property
    def stored(self) -> bool:
        """Whether another process can open it cheaply by path (see :meth:`describe`)."""
        return self._table.origin is not None

    def inputs(self, rows: Sequence[int] | Rows | None = None) -> Arrays:
        """The model's inputs for some rows, all by default: names and dtypes as its signature.

        Raises
        ------
        DataError
            When the preprocess function fails, or a value does not fit its input.
        """
        table = self._table
        chosen = self._rows if rows is None else self._rows[np.asarray(rows, np.int64)]
        arrays = {name: np.asarray(column[chosen]) for name, column in table.inputs.items()}
        if table.preprocess is not None:
            arrays = apply(table.preprocess, arrays)
        return conform(arrays, table.signature, len(chosen), self._giver())

    def targets(self, rows: Sequence[int] | Rows | None = None) -> np.ndarray | None:
        """The targets of some rows, all by default; None when the source has none."""
        return self._other("target", rows)

    @property
    def has_target(self) -> bool:
        """Whether the source holds targets."""
        return "target" in self._table.others

    @property
    def has_groups(self) -> bool:
        """Whether the source says which rows belong together (an array `group`)."""
        return "group" in self._table.others

    @functools.cached_property
    def groups(self) -> NDArray[np.int64]:
        """int64[n]: equal for rows that are no independent examples of each other.

        A hash of the array `group`, so that a group has one code in every file; without that
        array :attr:`contents`, so that only duplicates share one.
        """
        given = self._other("group")
        return self.contents if given is None else codes_of(given)

    @property
    def contents(self) -> NDArray[np.int64]:
        """int64[n]: equal for rows whose inputs are duplicates (`strop.data.content.scan`)."""
        return self._table.content.codes[self._rows]

    @property
    def keys(self) -> NDArray[np.uint64]:
        """uint64[n]: equal for rows whose columns, targets and all, hold equal bytes."""
        digests = np.ascontiguousarray(self._table.content.digests[self._rows])
        return digests.view("<u8")[:, 0].astype(np.uint64)

    @property
    def nonfinite(self) -> dict[str, int]:
        """By stored input, how many rows hold NaN or infinity."""
        found = self._table.content.nonfinite
        return {name: int(rows[self._rows].sum()) for name, rows in found.items()}

    @property
    def slices(self) -> dict[str, np.ndarray]:
        """By NAME of ``slice:NAME``, one value a row."""
        return {
            name.removeprefix(SLICE): np.asarray(column[self._rows])
            for name, column in self._table.others.items()
            if name.startswith(SLICE)
        }

    @property
    def lengths(self) -> dict[str, NDArray[np.int64]]:
        """By NAME of ``NAME:lengths``, how much of each row of that padded input is real."""
        return {
            name.removesuffix(LENGTHS): np.asarray(column[self._rows]).astype(np.int64)
            for name, column in self._table.others.items()
            if name.endswith(LENGTHS)
        }

    @property
    def times(self) -> np.ndarray | None:
        """When each row was seen; None when the source does not say."""
        return self._other("time")

    @property
    def columns(self) -> Mapping[str, Column]:
        """What is stored for the inputs, all rows of the source, before any preprocessing."""
        return self._table.inputs

    @property
    def is_preprocessed(self) -> bool:
        """Whether a preprocess function stands between what is stored and the inputs."""
        return self._table.preprocess is not None

    @property
    def ignored(self) -> tuple[str, ...]:
        """Arrays of the source that nothing uses."""
        return self._table.ignored

    def batches(self, size: int) -> Iterator[tuple[Rows, Arrays]]:
        """Row numbers (within this dataset) and inputs, `size` rows at a time, in order."""
        for start in range(0, len(self), size):
            rows = np.arange(start, min(start + size, len(self)))
            yield rows, self.inputs(rows)

    def subset(self, rows: Sequence[int] | NDArray[Any]) -> Dataset:
        """The dataset of some rows: row numbers within this dataset, or bool[n]."""
        chosen = np.asarray(rows)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        return Dataset(self._table, self._rows[chosen])

    def restricted(self, rows: Rows, digest: str, label: str) -> Dataset:
        """The dataset of some rows of the source whose digest is known already."""
        return Dataset(dataclasses.replace(self._table, label=label), rows, digest=digest)

    @property
    def digest(self) -> str:
        """sha256 over the rows' contents in order, the columns' names and types, and preprocess.

        Where the data lie makes no difference: a copy has the digest of the original.
        """
        if self._digest is None:
            table = self._table
            total = hashlib.sha256()
            for name, column in sorted({**table.inputs, **table.others}.items()):
                kind = "text" if column.dtype.kind in "OUT" else column.dtype.name
                total.update(f"{name}\0{kind}\0{list(column.shape[1:])}\n".encode())
            if isinstance(table.preprocess, UserFunction):
                identity = f"preprocess\0{table.preprocess.sha256}\0{table.preprocess.name}\n"
                total.update(identity.encode())
            elif table.preprocess is not None:  # no file to take a digest of: what it gives counts
                for _, arrays in self.batches(_BATCH):
                    for name in sorted(arrays):
                        total.update(f"{name}\0{arrays[name].shape}\n".encode())
                        total.update(_plain(arrays[name], name).tobytes())
            total.update(np.ascontiguousarray(table.content.digests[self._rows]).tobytes())
            self._digest = total.hexdigest()
        return self._digest

    def save_npz(self, path: Path) -> Dataset:
        """Write these rows to an uncompressed ``.npz`` and return the dataset that reads it.

        For data that live in memory, or are costly to read, before they cross to a child. The
        new dataset has the same digest. A preprocess function without a file of its own is
        applied here, once, so that its outputs are what is written.
        """
        table = self._table
        preprocess = table.preprocess
        if preprocess is None or isinstance(preprocess, UserFunction):
            inputs = {name: np.asarray(column[self._rows]) for name, column in table.inputs.items()}
        else:
            inputs, preprocess = self.inputs(), None
        others = {name: np.asarray(column[self._rows]) for name, column in table.others.items()}
        arrays = {name: _plain(values, name) for name, values in {**inputs, **others}.items()}
        with path.open("wb") as file:  # given a name, savez appends .npz to other suffixes
            np.savez(file, **arrays)  # type: ignore[arg-type]
        from strop.data.npz import NpzReader

        columns = NpzReader().open(str(path), None, trust=False)
        saved = Dataset(
            Table(
                table.label,
                table.signature,
                {name: columns[name] for name in inputs},
                {name: columns[name] for name in others},
                preprocess,
                Origin(str(path.resolve()), NpzReader.name, {}),
            ),
            digest=self.digest,
        )
        if table.preprocess is not preprocess:
            saved.__dict__["groups"] = self.groups  # as before preprocess, like the digest
        return saved

    def describe(self) -> dict[str, Any]:
        """What `strop.data.reopen` needs in another process: JSON values and one array.

        Raises
        ------
        DataError
            When the data live in memory: :meth:`save_npz` them first.
        """
        table = self._table
        if table.origin is None or not isinstance(table.preprocess, UserFunction | None):
            raise DataError(f"{table.label} cannot be opened by path", hint="call save_npz first")
        return {
            "path": table.origin.path,
            "reader": table.origin.reader,
            "renames": dict(table.origin.renames),
            "label": table.label,
            "signature": table.signature.to_dict(),
            "preprocess": None if table.preprocess is None else table.preprocess.spec,
            "preprocess_sha256": None if table.preprocess is None else table.preprocess.sha256,
            "rows": self._rows,
            "digest": self.digest,
        }

    def _other(self, name: str, rows: Sequence[int] | Rows | None = None) -> np.ndarray | None:
        column = self._table.others.get(name)
        if column is None:
            return None
        chosen = self._rows if rows is None else self._rows[np.asarray(rows, np.int64)]
        return np.asarray(column[chosen])

    def _giver(self) -> str:
        preprocess = self._table.preprocess
        if preprocess is None:
            return f"{self._table.label} holds"
        return f"preprocess {_title(preprocess)} gives"


def apply(function: UserFunction | Preprocess, arrays: Arrays) -> Arrays:
    """What a preprocess function makes of a batch; DataError when it fails."""
    try:
        result = function(arrays)
        if isinstance(result, Mapping):
            return {name: np.asarray(values) for name, values in result.items()}
    except Exception as error:
        raise DataError(
            f"preprocess {_title(function)} raises {type(error).__name__}: {error}",
            hint="it takes a dict of arrays, a batch of rows, and returns a dict of arrays",
        ) from error
    raise DataError(
        f"preprocess {_title(function)} returns {type(result).__name__}",
        hint="return a dict of arrays, one for each input",
    )


def _title(function: UserFunction | Preprocess) -> str:
    return str(function) if isinstance(function, UserFunction) else repr(function)


def _plain(values: np.ndarray, name: str) -> np.ndarray:
    if values.dtype.kind not in "OT":
        return np.asarray(values)  # a plain array of what may be a memmap
    if not all(isinstance(value, str) for value in values.ravel()):
        raise DataError(f"'{name}' holds Python objects that cannot be written to .npz")
    return values.astype(np.str_)
