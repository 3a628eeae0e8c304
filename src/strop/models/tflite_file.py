"""What a `.tflite` file says of itself, read from its bytes: no TensorFlow, no LiteRT.

The file is one FlatBuffer of the schema that LiteRT ships (``schema.fbs``). Only the few tables
that describe its border and its operators are read; the numbers of fields are the schema's.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from strop.errors import ModelError
from strop.records import Dim, Signature, TensorSpec

_T = TypeVar("_T")

_MAGIC = b"TFL3"
_VERSION = 3
_CUSTOM = 32
"""The builtin code that stands for an operator which only has a name."""
_DTYPES = {
    0: "float32",
    1: "float16",
    2: "int32",
    3: "uint8",
    4: "int64",
    5: "str",
    6: "bool",
    7: "int16",
    8: "complex64",
    9: "int8",
    10: "float64",
    11: "complex128",
    12: "uint64",
    15: "uint32",
    16: "uint16",
    17: "int4",
    18: "bfloat16",
}
_PREFERRED = "serving_default"
_READINGS = 16
"""How many times its own size is read of a file before it counts as damaged."""
_TABLES = 2**22
"""Bytes of a file that count there: the rest of a larger one are weights, which are not read."""


@dataclass(frozen=True)
class Scale:
    """How integers at the border stand for numbers: ``number = scale * (integer - zero_point)``."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class TFLiteFile:
    """The border of a `.tflite` file and what its operators are.

    Attributes
    ----------
    signature
        Inputs and outputs in the main graph's order, under the names of the file's signature, or
        of its tensors where it has none. A dimension that the file leaves open is a symbol
        (``batch``) in front and None elsewhere.
    input_tensors, output_tensors
        The tensors' own names, in the same order.
    chosen, others
        The signature that names come from (empty without one), and the ones left aside.
    custom
        Names of operators that are not the format's own.
    scales
        Inputs and outputs that hold quantised integers.
    quantised
        Whether any tensor is quantised to integers.
    producer
        What the file says it was made by.
    """

    signature: Signature
    input_tensors: tuple[str, ...]
    output_tensors: tuple[str, ...]
    chosen: str
    others: tuple[str, ...]
    custom: tuple[str, ...]
    scales: dict[str, Scale]
    quantised: bool
    producer: str


def read(path: Path) -> TFLiteFile:
    """The facts of the file at `path`.

    Raises
    ------
    ModelError
        When it is no `.tflite` file, or is cut short or damaged.

    Examples
    --------
    >>> read(Path("model.tflite")).signature  # doctest: +SKIP
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"'{path}' cannot be read: {error.strerror}") from error
    if content[4:8] != _MAGIC:
        raise ModelError(
            f"'{path.name}' is not a .tflite file: its mark is {content[4:8]!r}, not {_MAGIC!r}",
            hint="export or download it again",
        )
    try:
        return _facts(_Table.root(content), path.name)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ModelError(
            f"'{path.name}' is damaged or cut short: it points outside itself, or in circles",
            hint="export or download it again",
        ) from error


def _facts(model: _Table, name: str) -> TFLiteFile:
    if (version := model.uint32(0)) != _VERSION:
        raise ModelError(f"'{name}' has version {version} of the format, not {_VERSION}")
    graphs = model.tables(2)
    if not graphs:
        raise ModelError(f"'{name}' holds no graph")
    main = graphs[0]
    tensors = [_Tensor(table) for table in main.tables(0)]
    inputs, outputs = main.int32s(1), main.int32s(2)
    if not outputs:
        raise ModelError(f"'{name}' gives nothing: its graph has no outputs")
    if any(number < 0 for number in (*inputs, *outputs)):
        raise IndexError("a tensor of the border")
    ends = [tensors[number] for number in (*inputs, *outputs)]
    if unknown := next((end for end in ends if end.kind not in _DTYPES), None):
        raise ModelError(f"'{name}': '{unknown.name}' has type {unknown.kind}, which no array has")
    chosen, others, names = _signature(model, inputs, outputs)
    in_names = _named(inputs, tensors, names[0])
    out_names = _named(outputs, tensors, names[1])
    scales = {
        label: scale
        for label, number in zip((*in_names, *out_names), (*inputs, *outputs), strict=True)
        if (scale := tensors[number].scale) is not None
    }
    every = [_Tensor(table) for graph in graphs for table in graph.tables(0)]
    return TFLiteFile(
        signature=Signature(
            inputs=tuple(
                tensors[number].spec(label) for number, label in zip(inputs, in_names, strict=True)
            ),
            outputs=tuple(
                tensors[number].spec(label)
                for number, label in zip(outputs, out_names, strict=True)
            ),
        ),
        input_tensors=tuple(tensors[number].name for number in inputs),
        output_tensors=tuple(tensors[number].name for number in outputs),
        chosen=chosen,
        others=others,
        custom=tuple(_custom(model)),
        scales=scales,
        quantised=any(tensor.quantised for tensor in every),
        producer=model.text(3) or "unknown",
    )


def _signature(
    model: _Table, inputs: list[int], outputs: list[int]
) -> tuple[str, tuple[str, ...], tuple[dict[int, str], dict[int, str]]]:
    """The signature to take names from, the others, and names by number of tensor.

    One of another graph than the main one, or that leaves part of the border unnamed, gives none.
    """
    known = {table.text(2): table for table in model.tables(7)}
    order = sorted(known, key=lambda key: key != _PREFERRED)  # stable: else the file's order
    for key in order:
        table = known[key]
        maps = tuple({entry.uint32(1): entry.text(0) for entry in table.tables(n)} for n in (0, 1))
        if not table.uint32(4) and set(maps[0]) >= set(inputs) and set(maps[1]) >= set(outputs):
            return key, tuple(other for other in order if other != key), (maps[0], maps[1])
    return "", tuple(order), ({}, {})


def _named(numbers: list[int], tensors: list[_Tensor], names: dict[int, str]) -> list[str]:
    """A name each; tensors without one, or that share one, are told apart by their place."""
    found = [names.get(number) or tensors[number].name for number in numbers]
    count = Counter(found)
    return [
        name if name and count[name] == 1 else f"{name or 'tensor'}_{place}"
        for place, name in enumerate(found)
    ]


def _custom(model: _Table) -> Iterator[str]:
    used = {operator.uint32(0) for graph in model.tables(2) for operator in graph.tables(3)}
    for number, code in enumerate(model.tables(1)):
        # Codes beyond 127 are in the newer, wider field alone.
        if number in used and max(code.int8(0), code.int32(3)) == _CUSTOM:
            yield code.text(1) or "without a name"


class _Tensor:
    """One row of a graph's table of tensors."""

    def __init__(self, table: _Table) -> None:
        self.kind = table.int8(1)
        self.name = table.text(3)
        open_shape = table.int32s(7)
        self._shape = open_shape or table.int32s(0)
        how = table.table(4)
        scales = [] if how is None else how.float32s(2)
        zeros = [] if how is None else how.int64s(3)
        integer = _DTYPES.get(self.kind, "").startswith(("int", "uint"))
        self.quantised = integer and any(scales)
        self.scale = (
            Scale(scales[0], zeros[0] if zeros else 0)
            if self.quantised and len(scales) == 1
            else None
        )

    def spec(self, name: str) -> TensorSpec:
        dims: list[Dim] = [None if size < 0 else size for size in self._shape]
        if dims and dims[0] is None:
            dims[0] = "batch"
        return TensorSpec(name=name, dtype=_DTYPES[self.kind], shape=tuple(dims))


class _Budget:
    """Bytes of lists and texts that may be read of one file.

    Tables may share what they point to. A file of a megabyte can so have a million graphs that
    all have the same million tensors; an honest one is read about once.
    """

    def __init__(self, content: bytes) -> None:
        self._left = _READINGS * min(len(content), _TABLES)

    def spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise IndexError("what it points to repeats without end")


class _Table:
    """A table of a FlatBuffer: a position, and the offsets of its fields.

    Nothing in the file is trusted: every read is held against the file's end, and lengths against
    what is left of it.
    """

    def __init__(self, content: bytes, position: int, budget: _Budget) -> None:
        self._content = content
        self._position = position
        self._budget = budget
        self._fields = position - _at("<i", content, position)
        self._size = _at("<H", content, self._fields)

    @classmethod
    def root(cls, content: bytes) -> _Table:
        return cls(content, _at("<I", content, 0), _Budget(content))

    def _field(self, number: int) -> int | None:
        """Where field `number` begins; None where the table leaves it out."""
        slot = 4 + 2 * number
        if slot + 2 > self._size:
            return None
        offset = _at("<H", self._content, self._fields + slot)
        return self._position + offset if offset else None

    def _scalar(self, number: int, form: str) -> int:
        place = self._field(number)
        return 0 if place is None else _at(form, self._content, place)

    def int8(self, number: int) -> int:
        return self._scalar(number, "<b")

    def int32(self, number: int) -> int:
        return self._scalar(number, "<i")

    def uint32(self, number: int) -> int:
        return self._scalar(number, "<I")

    def table(self, number: int) -> _Table | None:
        place = self._field(number)
        return None if place is None else self._below(place)

    def text(self, number: int) -> str:
        place = self._field(number)
        if place is None:
            return ""
        start = self._follow(place)
        length = _at("<I", self._content, start)
        if start + 4 + length > len(self._content):
            raise IndexError("text")
        self._budget.spend(length)
        return self._content[start + 4 : start + 4 + length].decode()

    def tables(self, number: int) -> list[_Table]:
        return self._vector(number, 4, self._below)

    def int32s(self, number: int) -> list[int]:
        return self._vector(number, 4, lambda place: _at("<i", self._content, place))

    def int64s(self, number: int) -> list[int]:
        return self._vector(number, 8, lambda place: _at("<q", self._content, place))

    def float32s(self, number: int) -> list[float]:
        return self._vector(number, 4, lambda place: _number("<f", self._content, place))

    def _vector(self, number: int, size: int, entry: Callable[[int], _T]) -> list[_T]:
        place = self._field(number)
        if place is None:
            return []
        start = self._follow(place)
        length = _at("<I", self._content, start)
        if start + 4 + length * size > len(self._content):
            raise IndexError("vector")
        self._budget.spend(length * size)
        return [entry(start + 4 + index * size) for index in range(length)]

    def _below(self, place: int) -> _Table:
        return _Table(self._content, self._follow(place), self._budget)

    def _follow(self, place: int) -> int:
        return place + _at("<I", self._content, place)


def _at(form: str, content: bytes, place: int) -> int:
    return int(_number(form, content, place))


def _number(form: str, content: bytes, place: int) -> float:
    if place < 0:  # struct would count from the end
        raise IndexError(place)
    value: float = struct.unpack_from(form, content, place)[0]
    return value
