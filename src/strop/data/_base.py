"""The contract of a reader: open a source as named columns, reading as little as possible."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from strop.records import Signature

Arrays: TypeAlias = dict[str, np.ndarray]
Rows: TypeAlias = NDArray[np.int64]
"""Row numbers, int64[k]."""


class Column(Protocol):
    """One named array, examples along dimension 0; a `numpy.ndarray` is one.

    ``column[rows]`` reads those rows; nothing else needs to touch the disk.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


@runtime_checkable
class Fingerprinted(Protocol):
    """A column whose rows are told apart without decoding them (files of an image folder)."""

    def fingerprints(self, rows: Rows) -> Iterator[bytes]:
        """For each row, bytes that are equal exactly when the stored rows are."""


class Reader(ABC):
    """Opens one kind of source. Registered by name under ``strop.readers``."""

    name: ClassVar[str]
    tabular: ClassVar[bool] = False
    """Whether columns are numbers and flat lists: `strop.data.read` then puts the columns of a
    single-input model side by side, and gives flat rows the shape of their input."""
    stored: ClassVar[bool] = False
    """Whether :meth:`open` is cheap and reads rows from disk as they are asked for, so that
    another process may open the same source again."""

    @abstractmethod
    def reads(self, source: str) -> bool:
        """Whether the source, a path or ``file.py:function``, looks like one of its kind."""

    @abstractmethod
    def open(self, source: str, signature: Signature | None, *, trust: bool) -> dict[str, Column]:
        """The columns of a source.

        Parameters
        ----------
        source
            A path that :meth:`reads` accepts, or that the user gave to this reader by name.
        signature
            What the columns are to fit; None when a preprocess function stands between, which
            then gets them as they are stored.
        trust
            Whether code in the source may run.

        Raises
        ------
        DataError
            When the source cannot be read.
        MissingExtra, TrustError
            When a package, or the user's word, is missing.
        """
