"""Small `.tflite` files, written without TensorFlow: cases with known answers for suites.

Only what the tests of LiteRT and of the reader need is written; numbers are the schema's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from strop.testing.graphs import Case

CUSTOM = 32
_KINDS = {
    "float32": 0,
    "float16": 1,
    "int32": 2,
    "uint8": 3,
    "int64": 4,
    "bool": 6,
    "int16": 7,
    "int8": 9,
}
_OPERATORS = {
    "Add": 0,
    "Identity": 2,  # a concatenation of one
    "MatMul": 9,
    "Relu": 19,
    "Greater": 61,
    "ReduceSum": 74,
}
_OPTIONS = {0: 11, 2: 10, 9: 8, 61: 44, 74: 27}
"""The kind of options of a builtin; OpenVINO reads them even where all have their defaults."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file.

    Attributes
    ----------
    shape
        -1 where it is open.
    value
        A constant's array, of the tensor's own dtype.
    scale
        ``(scale, zero_point)`` of quantised integers.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    value: np.ndarray | None = None
    scale: tuple[float, int] | None = None


@dataclass(frozen=True)
class Operator:
    """One operator: the builtin's number or a custom one's name, and its tensors by name."""

    kind: int | str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    keep_dims: bool = False


def pack(
    tensors: Sequence[Tensor],
    operators: Sequence[Operator],
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    signatures: Mapping[str, tuple[Mapping[str, str], Mapping[str, str]]] | None = None,
) -> bytes:
    """The bytes of a `.tflite` file.

    Parameters
    ----------
    signatures
        By key: names of inputs and names of outputs, each with the tensor that it stands for.
    """
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    places = {tensor.name: place for place, tensor in enumerate(tensors)}
    codes = list(dict.fromkeys(operator.kind for operator in operators))
    constants = [tensor for tensor in tensors if tensor.value is not None]
    graph = _table(
        builder,
        {
            0: _offsets(builder, [_tensor(builder, tensor, constants) for tensor in tensors]),
            1: _numbers(builder, [places[name] for name in inputs]),
            2: _numbers(builder, [places[name] for name in outputs]),
            3: _offsets(builder, [_operator(builder, one, codes, places) for one in operators]),
        },
    )
    entries = [
        _table(
            builder,
            {
                0: _offsets(builder, [_entry(builder, *it, places) for it in taken.items()]),
                1: _offsets(builder, [_entry(builder, *it, places) for it in given.items()]),
                2: builder.CreateString(key),
            },
        )
        for key, (taken, given) in (signatures or {}).items()
    ]
    model = _table(
        builder,
        {
            1: _offsets(builder, [_code(builder, code) for code in codes]),
            2: _offsets(builder, [graph]),
            3: builder.CreateString("strop.testing"),
            4: _offsets(
                builder, [_table(builder, {}), *(_buffer(builder, one) for one in constants)]
            ),
            7: _offsets(builder, entries),
        },
        {0: ("Uint32", 3)},
    )
    builder.Finish(model, b"TFL3")
    return bytes(builder.Output())


def write(case: Case, path: Path) -> Path:
    """The network of a case as a `.tflite` file with one signature, its batch left open.

    Examples
    --------
    >>> import tempfile
    >>> from strop.models import tflite_file
    >>> from strop.testing import graphs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = write(graphs.linear(), Path(folder) / "linear.tflite")
    ...     print(tflite_file.read(file).signature)
    (input.1: float32[batch, 4]) -> (logits:0: float32[batch, 3])
    """
    tensors: dict[str, Tensor] = {}
    ends = (*case.signature.inputs, *case.signature.outputs)
    for spec in ends:
        shape = tuple(dim if isinstance(dim, int) else -1 for dim in spec.shape or ())
        tensors[spec.name] = Tensor(f"main_{spec.name}", spec.dtype, shape)
    operators = []
    for kind, given, made, _ in case.nodes:
        for name in given:
            if name in case.constants and name not in tensors:
                value = case.constants[name]
                if kind == "MatMul":  # its weights lie the other way round
                    value = np.ascontiguousarray(value.T)
                if kind == "ReduceSum":
                    value = value.astype(np.int32)
                tensors[name] = Tensor(name, value.dtype.name, value.shape, value)
        for name in made:
            # What is between has the width of the bias that follows, here always the output's.
            last = case.signature.outputs[-1]
            shape = tuple(dim if isinstance(dim, int) else -1 for dim in last.shape or ())
            tensors.setdefault(name, Tensor(name, last.dtype, shape))
        operators.append(
            Operator(
                _OPERATORS[kind],
                tuple(tensors[name].name for name in given),
                tuple(tensors[name].name for name in made),
                keep_dims=kind == "ReduceSum",
            )
        )
    taken = {name: tensors[name].name for name in case.signature.input_names}
    given_out = {name: tensors[name].name for name in case.signature.output_names}
    content = pack(
        list(tensors.values()),
        operators,
        list(taken.values()),
        list(given_out.values()),
        signatures={"serving_default": (taken, given_out)},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _tensor(builder: Any, tensor: Tensor, constants: Sequence[Tensor]) -> int:
    fields = {
        # A file states a size of one where it leaves the size open.
        0: _numbers(builder, [max(size, 1) for size in tensor.shape]),
        3: builder.CreateString(tensor.name),
    }
    if -1 in tensor.shape:
        fields[7] = _numbers(builder, tensor.shape)
    if tensor.scale is not None:
        scale, zero = tensor.scale
        fields[4] = _table(
            builder,
            {
                2: builder.CreateNumpyVector(np.array([scale], np.float32)),
                3: builder.CreateNumpyVector(np.array([zero], np.int64)),
            },
        )
    place = 0 if tensor.value is None else 1 + constants.index(tensor)
    return _table(builder, fields, {1: ("Int8", _KINDS[tensor.dtype]), 2: ("Uint32", place)})


def _operator(
    builder: Any, one: Operator, codes: Sequence[int | str], places: Mapping[str, int]
) -> int:
    fields = {
        1: _numbers(builder, [places[name] for name in one.inputs]),
        2: _numbers(builder, [places[name] for name in one.outputs]),
    }
    scalars: dict[int, tuple[str, int]] = {0: ("Uint32", codes.index(one.kind))}
    if one.kind in _OPTIONS:
        fields[4] = _table(builder, {}, {0: ("Bool", True)} if one.keep_dims else {})
        scalars[3] = ("Uint8", _OPTIONS[int(one.kind)])
    return _table(builder, fields, scalars)


def _code(builder: Any, code: int | str) -> int:
    number = CUSTOM if isinstance(code, str) else code
    fields = {1: builder.CreateString(code)} if isinstance(code, str) else {}
    scalars = {0: ("Int8", number), 2: ("Int32", 1), 3: ("Int32", number)}
    return _table(builder, fields, scalars)


def _entry(builder: Any, name: str, tensor: str, places: Mapping[str, int]) -> int:
    return _table(builder, {0: builder.CreateString(name)}, {1: ("Uint32", places[tensor])})


def _buffer(builder: Any, tensor: Tensor) -> int:
    assert tensor.value is not None
    data = np.frombuffer(tensor.value.tobytes(), np.uint8)
    # The runtime reads numbers in place: they must lie as aligned as their type asks for.
    builder.Prep(16, len(data) + 4)
    return _table(builder, {0: builder.CreateNumpyVector(data)})


def _numbers(builder: Any, values: Sequence[int]) -> int:
    return int(builder.CreateNumpyVector(np.array(values, np.int32)))


def _offsets(builder: Any, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _table(
    builder: Any, fields: Mapping[int, int], scalars: Mapping[int, tuple[str, int]] | None = None
) -> int:
    """A table: offsets by number of field, and scalars with their kind."""
    builder.StartObject(max((*fields, *(scalars or {})), default=-1) + 1)
    for number, offset in fields.items():
        builder.PrependUOffsetTRelativeSlot(number, offset, 0)
    for number, (kind, value) in (scalars or {}).items():
        getattr(builder, f"Prepend{kind}Slot")(number, value, 0)
    return int(builder.EndObject())
