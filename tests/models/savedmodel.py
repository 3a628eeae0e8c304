"""A SavedModel written without TensorFlow: those of its messages that one small graph takes."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

_SCALARS = {"int32": 5, "int64": 3, "string": 9, "bytes": 12, "bool": 8}
_MESSAGE, _ONE, _MANY = 11, 1, 3
# Name, number, type; "*" repeats. Numbers as in TensorFlow's own .proto files.
_FIELDS = {
    "Dim": "size 1 int64",
    "Shape": "dim 2 *Dim",
    "Tensor": "dtype 1 int32, tensor_shape 2 Shape, tensor_content 4 bytes",
    "Value": "b 5 bool, type 6 int32, shape 7 Shape, tensor 8 Tensor",
    "Attr": "key 1 string, value 2 Value",
    "Node": "name 1 string, op 2 string, input 3 *string, attr 5 *Attr",
    "Versions": "producer 1 int32",
    "Graph": "node 1 *Node, versions 4 Versions",
    "Meta": "tags 4 *string, tensorflow_version 5 string",
    "Info": "name 1 string, dtype 2 int32, tensor_shape 3 Shape",
    "Named": "key 1 string, value 2 Info",
    "Signature": "inputs 1 *Named, outputs 2 *Named, method_name 3 string",
    "Signed": "key 1 string, value 2 Signature",
    "MetaGraph": "meta_info_def 1 Meta, graph_def 2 Graph, signature_def 5 *Signed",
    "SavedModel": "saved_model_schema_version 1 int64, meta_graphs 2 *MetaGraph",
}
_FLOAT = 1


def write(folder: Path, weight: np.ndarray, *, operator: str = "MatMul") -> Path:
    """``logits = x @ weight`` for `x` float32[batch, k], as TensorFlow writes it to `folder`."""
    (folder / "variables").mkdir(parents=True)
    model = _messages()["SavedModel"](saved_model_schema_version=1)
    graph = model.meta_graphs.add()
    graph.meta_info_def.tags.append("serve")
    graph.meta_info_def.tensorflow_version = "2.15.0"
    graph.graph_def.versions.producer = 1087
    rows, columns = weight.shape
    x = graph.graph_def.node.add(name="serving_default_x", op="Placeholder")
    x.attr.add(key="dtype").value.type = _FLOAT
    _shape(x.attr.add(key="shape").value.shape, -1, rows)
    w = graph.graph_def.node.add(name="w", op="Const")
    w.attr.add(key="dtype").value.type = _FLOAT
    tensor = w.attr.add(key="value").value.tensor
    tensor.dtype, tensor.tensor_content = _FLOAT, weight.astype("<f4").tobytes()
    _shape(tensor.tensor_shape, rows, columns)
    y = graph.graph_def.node.add(name="y", op=operator, input=["serving_default_x", "w"])
    y.attr.add(key="T").value.type = _FLOAT
    for name in ("transpose_a", "transpose_b"):
        y.attr.add(key=name).value.b = False
    signed = graph.signature_def.add(key="serving_default").value
    signed.method_name = "tensorflow/serving/predict"
    for ports, key, name, size in (
        (signed.inputs, "x", "serving_default_x:0", rows),
        (signed.outputs, "logits", "y:0", columns),
    ):
        info = ports.add(key=key).value
        info.name, info.dtype = name, _FLOAT
        _shape(info.tensor_shape, -1, size)
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())
    return folder


def _shape(shape: Any, *sizes: int) -> None:
    for size in sizes:
        shape.dim.add(size=size)


@functools.cache
def _messages() -> dict[str, Any]:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    # proto2: what is false is written, too, as OpenVINO asks whether an attribute is there.
    file = descriptor_pb2.FileDescriptorProto(name="tiny.proto", package="tiny", syntax="proto2")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field in fields.split(", "):
            called, number, kind = field.split()
            plain = kind.removeprefix("*")
            message.field.add(
                name=called,
                number=int(number),
                label=_ONE if plain == kind else _MANY,
                type=_SCALARS.get(plain, _MESSAGE),
                type_name=None if plain in _SCALARS else f".tiny.{plain}",
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tiny.{name}"))
        for name in _FIELDS
    }
