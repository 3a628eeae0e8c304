"""An ONNX file: read without trusting it, written so that every runtime takes it."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from strop.errors import ModelError

if TYPE_CHECKING:
    import onnx

OPSETS = range(17, 22)
"""Opsets of the default domain that strop writes: what all engines and quantisers take."""
MAX_IR = 10
"""The newest ONNX IR version that strop writes."""
INLINE_LIMIT = 1_500_000_000
"""Bytes of weights above which they go to a file of their own (protobuf ends at 2 GiB)."""

_PROTOBUF_LIMIT = 2**31 - 1
_WEIGHT_LIMIT = 2**38
_ELEMENT_LIMIT = 2**31


def read(path: Path) -> onnx.ModelProto:
    """The model in an ONNX file, its external data loaded; nothing in the file is trusted.

    Every tensor's declared size is held against the bytes that are there before anything is
    allocated, and external data are read only from plain files in or below the model's own
    folder: no absolute path, no ``..``, no symbolic or hard link (CVE-2022-25882,
    CVE-2024-27318 and later are reads through exactly these).

    Raises
    ------
    ModelError
        When the file is not a readable, self-consistent ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError

    content = _content(path)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except (DecodeError, RecursionError) as error:
        raise ModelError(
            f"'{path.name}' is not an ONNX model, or is cut short: it does not parse as protobuf",
            hint="export or download it again",
        ) from error
    del content
    if proto.ir_version < 1 or not proto.HasField("graph") or not proto.graph.output:
        raise ModelError(
            f"'{path.name}' is not an ONNX model: it holds no graph with outputs",
            hint="export or download it again",
        )
    folder = path.resolve().parent
    for tensor in tensors(proto):
        _admit(tensor, folder)
    _refuse_bombs(proto)
    return proto


def write(proto: onnx.ModelProto, path: Path) -> Path:
    """Write `proto` to `path`; big weights go to ``<name>.data`` beside it.

    ``metadata_props`` and doc strings are stripped from `proto`: exporters leave stack traces
    with absolute paths in them.

    Raises
    ------
    ModelError
        When the opset is outside 17–21 or the IR is newer than 10: ONNX Runtime and OpenVINO
        refuse newer ones, NNCF and ORT's quantisers fall back on older ones.
    """
    import onnx

    opset = default_opset(proto)
    if opset not in OPSETS or proto.ir_version > MAX_IR:
        raise ModelError(
            f"a graph of opset {opset} and IR {proto.ir_version} was to be written, but engines "
            f"take opset {OPSETS[0]}–{OPSETS[-1]} and IR up to {MAX_IR}"
        )
    strip(proto)
    path.parent.mkdir(parents=True, exist_ok=True)
    if weight_bytes(proto) <= INLINE_LIMIT:
        path.write_bytes(proto.SerializeToString(deterministic=True))
        return path
    location = f"{path.name}.data"
    (path.parent / location).unlink(missing_ok=True)
    big = onnx.ModelProto()
    big.CopyFrom(proto)
    onnx.save_model(big, path, save_as_external_data=True, location=location, size_threshold=1024)
    return path


def strip(proto: onnx.ModelProto) -> None:
    """Remove doc strings, metadata and training graphs, in place, subgraphs included."""
    proto.ClearField("doc_string")
    proto.ClearField("metadata_props")
    proto.ClearField("training_info")
    for function in proto.functions:
        function.ClearField("doc_string")
        function.ClearField("metadata_props")
        _strip_nodes(function.node)
    for graph in graphs(proto.graph):
        graph.ClearField("doc_string")
        graph.ClearField("metadata_props")
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            value.ClearField("doc_string")
            value.ClearField("metadata_props")
        _strip_nodes(graph.node)


def default_opset(proto: onnx.ModelProto) -> int:
    """The version of the default operator set; 0 when the model imports none."""
    return next((int(o.version) for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """`graph` and all graphs inside its nodes (If, Loop, Scan), outermost first."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in _inner_graphs(attribute):
                yield from graphs(inner)


def tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor stored in the model: initialisers and attributes, subgraphs included."""
    for graph in graphs(proto.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        yield from _attribute_tensors(graph.node)
    for function in proto.functions:
        yield from _attribute_tensors(function.node)
        for node in function.node:
            for attribute in node.attribute:
                for inner in _inner_graphs(attribute):
                    for graph in graphs(inner):
                        yield from graph.initializer
                        yield from _attribute_tensors(graph.node)


def weight_bytes(proto: onnx.ModelProto) -> int:
    """Bytes of all stored tensors."""
    return sum(tensor_bytes(tensor) for tensor in tensors(proto))


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes that the tensor's elements take when packed; strings count their own bytes."""
    import onnx

    if tensor.data_type == onnx.TensorProto.STRING:
        return sum(len(text) for text in tensor.string_data)
    elements: int = math.prod(tensor.dims)
    return (elements * element_bits(tensor.data_type) + 7) // 8


def _content(path: Path) -> bytes:
    try:
        # Opening a pipe waits for a writer otherwise.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(descriptor, "rb") as stream:  # noqa: PTH123 — a descriptor, not a path
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ModelError(f"'{path}' is not a plain file")
            if status.st_size > _PROTOBUF_LIMIT:
                raise ModelError(
                    f"'{path.name}' has {status.st_size:,} bytes, but protobuf ends at 2 GiB",
                    hint="save the weights as external data",
                )
            content = stream.read()
    except OSError as error:
        raise ModelError(f"'{path}' cannot be read: {error.strerror or error}") from error
    if not content:
        raise ModelError(f"'{path.name}' is empty", hint="export or download it again")
    if content.startswith(b"version https://git-lfs"):
        raise ModelError(
            f"'{path.name}' is a Git LFS pointer, not the model itself", hint="run: git lfs pull"
        )
    return content


def _admit(tensor: onnx.TensorProto, folder: Path) -> None:
    """Check a tensor's declared size against its bytes; load it when it is external."""
    import onnx

    name = tensor.name or "(unnamed)"
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"tensor '{name}' has a negative dimension: {list(tensor.dims)}")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        data = _external(tensor, name, folder)
        _compare(name, tensor, len(data))
        tensor.raw_data = data
        tensor.data_location = onnx.TensorProto.DEFAULT
        tensor.ClearField("external_data")
        return
    elements = math.prod(tensor.dims)
    if tensor.data_type == onnx.TensorProto.STRING:
        if len(tensor.string_data) != elements:
            raise ModelError(
                f"tensor '{name}' declares {list(tensor.dims)} strings "
                f"but holds {len(tensor.string_data)}"
            )
    elif tensor.HasField("raw_data"):
        _compare(name, tensor, len(tensor.raw_data))
    else:
        _compare_typed(name, tensor, elements)


def _refuse_bombs(proto: onnx.ModelProto) -> None:
    """Refuse constants that are tiny in the file and huge in memory."""
    from onnx import numpy_helper

    for graph in graphs(proto.graph):
        sizes = [
            (sparse.values.name, math.prod(sparse.dims)) for sparse in graph.sparse_initializer
        ]
        shapes = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
                shapes[node.output[0]] = node.attribute[0].t
            if node.op_type == "ConstantOfShape" and node.input and node.input[0] in shapes:
                shape = numpy_helper.to_array(shapes[node.input[0]]).tolist()
                sizes.append((node.output[0], math.prod(shape) if isinstance(shape, list) else 1))
        for name, elements in sizes:
            if elements > _ELEMENT_LIMIT:
                raise ModelError(
                    f"tensor '{name}' would take {elements:,} elements of memory, "
                    f"more than {_ELEMENT_LIMIT:,}",
                    hint="the file is damaged or hostile: export or download it again",
                )


def _compare(name: str, tensor: onnx.TensorProto, found: int) -> None:
    expected = tensor_bytes(tensor)
    if expected != found:
        raise ModelError(
            f"tensor '{name}' declares shape {list(tensor.dims)}, {expected:,} bytes, "
            f"but {found:,} bytes are stored",
            hint="the file is damaged: export or download it again",
        )


def _compare_typed(name: str, tensor: onnx.TensorProto, elements: int) -> None:
    from onnx import TensorProto, helper

    try:
        field = helper.tensor_dtype_to_field(tensor.data_type)
    except KeyError as error:
        raise ModelError(f"tensor '{name}' is of an unknown type {tensor.data_type}") from error
    bits = element_bits(tensor.data_type)
    if bits < 8:
        expected = (elements * bits + 7) // 8
    elif tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        expected = 2 * elements
    else:
        expected = elements
    found = len(getattr(tensor, field))
    if found != expected:
        raise ModelError(
            f"tensor '{name}' declares shape {list(tensor.dims)}, {elements:,} elements, "
            f"but {found:,} are stored",
            hint="the file is damaged: export or download it again",
        )


def _external(tensor: onnx.TensorProto, name: str, folder: Path) -> bytes:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    where = f"external data '{location}' of tensor '{name}'"
    foreign = PurePosixPath(location).is_absolute() or PureWindowsPath(location).is_absolute()
    parts = PurePosixPath(location.replace("\\", "/")).parts
    if not parts or "\0" in location or foreign or ".." in parts or ":" in parts[0]:
        raise ModelError(
            f"{where} lie outside the model's folder", hint="put them beside the model"
        )
    path = folder
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise ModelError(f"{where} are reached by a symbolic link", hint="copy the file itself")
    try:
        offset = int(entries.get("offset", "0"))
        expected = tensor_bytes(tensor)
        length = int(entries.get("length", expected))
    except ValueError as error:
        raise ModelError(f"{where} have an offset or a length that is no number") from error
    if not 0 <= expected <= _WEIGHT_LIMIT or length != expected or offset < 0:
        raise ModelError(
            f"{where} declare {length:,} bytes from {offset:,} for shape {list(tensor.dims)}, "
            f"which takes {expected:,}"
        )
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ModelError(
            f"{where} cannot be read: {error.strerror}", hint="put the file beside the model"
        ) from error
    with open(descriptor, "rb") as stream:  # noqa: PTH123 — a descriptor, not a path
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{where} are not a plain file")
        if status.st_nlink > 1:
            raise ModelError(
                f"{where} are a hard link to a file that may lie elsewhere",
                hint="copy the file itself",
            )
        if offset + length > status.st_size:
            raise ModelError(
                f"{where} end at byte {offset + length:,}, "
                f"but the file has {status.st_size:,} bytes",
                hint="the file is cut short: export or download it again",
            )
        stream.seek(offset)
        return stream.read(length)


def element_bits(data_type: int) -> int:
    """Bits that one element of an ONNX type takes when packed; strings count as 0.

    Raises
    ------
    ModelError
        When the type is unknown.
    """
    from onnx import TensorProto as T

    sizes = {
        **dict.fromkeys((T.FLOAT, T.INT32, T.UINT32), 32),
        **dict.fromkeys((T.DOUBLE, T.INT64, T.UINT64, T.COMPLEX64), 64),
        **dict.fromkeys((T.FLOAT16, T.BFLOAT16, T.INT16, T.UINT16), 16),
        T.COMPLEX128: 128,
        T.STRING: 0,
    }
    if data_type in sizes:
        return sizes[data_type]
    name = T.DataType.Name(data_type) if data_type in T.DataType.values() else ""
    if name in ("UINT4", "INT4", "FLOAT4E2M1"):
        return 4
    if name in ("UINT2", "INT2"):
        return 2
    if name in ("BOOL", "INT8", "UINT8") or name.startswith("FLOAT8"):
        return 8
    raise ModelError(f"a tensor is of an unknown type {name or data_type}")


def _strip_nodes(nodes: Any) -> None:
    for node in nodes:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
        for attribute in node.attribute:
            attribute.ClearField("doc_string")


def _inner_graphs(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _attribute_tensors(nodes: Any) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
            for sparse in attribute.sparse_tensors:
                yield from (sparse.values, sparse.indices)
