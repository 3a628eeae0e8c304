"""An ONNX graph in memory: what techniques ask of it and how they read and write it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from strop.errors import ModelError
from strop.models.onnx_file import (
    INLINE_LIMIT,
    MAX_IR,
    OPSETS,
    default_opset,
    element_bits,
    graphs,
    read,
    strip,
    tensor_bytes,
    tensors,
    weight_bytes,
    write,
)
from strop.records import Dim, Signature, TensorSpec

if TYPE_CHECKING:
    import onnx

__all__ = [
    "INLINE_LIMIT",
    "MAX_IR",
    "OPSETS",
    "constants",
    "control_flow",
    "custom_domains",
    "default_opset",
    "element_bits",
    "graphs",
    "infer_shapes",
    "inputs",
    "is_quantised",
    "nodes",
    "operators",
    "read",
    "signature",
    "strip",
    "tensor_bytes",
    "tensors",
    "weight_bytes",
    "with_weights",
    "without_weights",
    "write",
]

KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.ms.internal.nhwc")
"""Domains whose operators ONNX Runtime brings itself."""

_QUANTISED_OPERATORS = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "ConvInteger",
)
_SMALL = 1024


def nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of the graph, those of subgraphs (If, Loop, Scan) included."""
    for graph in graphs(proto.graph):
        yield from graph.node


def operators(proto: onnx.ModelProto) -> Counter[str]:
    """How often each operator occurs; those outside the default domain as ``domain.Op``."""
    return Counter(
        node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        for node in nodes(proto)
    )


def constants(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The main graph's initialisers and Constant nodes, by tensor name."""
    from onnx import numpy_helper

    found = {tensor.name: tensor for tensor in proto.graph.initializer}
    arrays = {name: numpy_helper.to_array(tensor) for name, tensor in found.items()}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            tensor = constant_tensor(node)
            if tensor is not None:
                arrays[node.output[0]] = numpy_helper.to_array(tensor)
    return arrays


def constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The value of a Constant node, named after its output; None when it is sparse."""
    import onnx
    from onnx import helper, numpy_helper

    (attribute,) = node.attribute
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(value)
    elif attribute.name in ("value_int", "value_ints"):
        tensor = numpy_helper.from_array(np.array(value, np.int64))
    elif attribute.name in ("value_float", "value_floats"):
        tensor = numpy_helper.from_array(np.array(value, np.float32))
    elif attribute.name in ("value_string", "value_strings"):
        texts = [value] if isinstance(value, bytes) else list(value)
        dims = () if attribute.name == "value_string" else (len(texts),)
        tensor = helper.make_tensor("", onnx.TensorProto.STRING, dims, texts)
    else:
        return None
    tensor.name = node.output[0]
    return tensor


def is_quantised(proto: onnx.ModelProto) -> bool:
    """Whether the graph already computes on integers that stand for real numbers."""
    return any(
        node.op_type in _QUANTISED_OPERATORS
        or node.op_type.startswith("QLinear")
        or (node.domain == "com.microsoft" and node.op_type.startswith(("Q", "DynamicQuantize")))
        or (
            node.domain == "com.microsoft"
            and node.op_type in ("MatMulNBits", "MatMulIntegerToFloat")
        )
        for node in nodes(proto)
    )


def control_flow(proto: onnx.ModelProto) -> bool:
    """Whether the graph holds If, Loop or Scan."""
    return any(node.op_type in ("If", "Loop", "Scan") for node in nodes(proto))


def custom_domains(proto: onnx.ModelProto) -> list[str]:
    """Operator domains that ONNX Runtime does not bring itself, sorted."""
    return sorted({node.domain for node in nodes(proto)} - set(KNOWN_DOMAINS))


def signature(proto: onnx.ModelProto) -> Signature:
    """The graph's inputs (initialisers left out) and outputs, names exactly as they stand.

    Raises
    ------
    ModelError
        When an input or output is not a tensor (a sequence, a map, an optional).
    """
    outputs = tuple(_spec(value, "output") for value in proto.graph.output)
    return Signature(inputs=inputs(proto), outputs=outputs)


def inputs(proto: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """The graph's inputs alone, as in :func:`signature`; outputs may be untyped yet."""
    stored = {tensor.name for tensor in proto.graph.initializer}
    stored |= {sparse.values.name for sparse in proto.graph.sparse_initializer}
    return tuple(_spec(value, "input") for value in proto.graph.input if value.name not in stored)


def infer_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose ``value_info`` holds the shapes that ONNX can infer.

    Weights never enter the inference: big initialisers are declared as typed inputs meanwhile,
    so that models beyond protobuf's 2 GiB are inferred as well as small ones.
    """
    import onnx

    small = without_weights(proto)
    try:
        inferred = onnx.shape_inference.infer_shapes(small, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError) as error:
        raise ModelError(f"shapes do not fit together: {first_line(error)}") from error
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    result.graph.ClearField("value_info")
    known = {tensor.name for tensor in proto.graph.initializer}
    result.graph.value_info.extend(v for v in inferred.graph.value_info if v.name not in known)
    _copy_subgraph_values(inferred.graph, result.graph)
    shapes = {value.name: value for value in inferred.graph.output}
    for value in result.graph.output:
        if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
            value.CopyFrom(shapes[value.name])
    return result


def without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose big initialisers are typed graph inputs instead; shape constants stay.

    The result shares names, nodes and shapes with `proto` and is small.
    """
    import onnx
    from onnx import helper

    small = onnx.ModelProto()
    for field, value in proto.ListFields():
        if field.name != "graph":
            _assign(small, field.name, value)
    for field, value in proto.graph.ListFields():
        if field.name != "initializer":
            _assign(small.graph, field.name, value)
    declared = {value.name for value in proto.graph.input}
    for tensor in proto.graph.initializer:
        if tensor_bytes(tensor) <= _SMALL:
            small.graph.initializer.add().CopyFrom(tensor)
        elif tensor.name not in declared:
            small.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    return small


def with_weights(small: onnx.ModelProto, whole: onnx.ModelProto) -> onnx.ModelProto:
    """What was made of :func:`without_weights` of `whole`, with the weights put back."""
    import onnx

    weights = {tensor.name: tensor for tensor in whole.graph.initializer}
    present = {tensor.name for tensor in small.graph.initializer}
    result = onnx.ModelProto()
    result.CopyFrom(small)
    del result.graph.input[:]
    result.graph.input.extend(v for v in small.graph.input if v.name not in weights)
    result.graph.initializer.extend(t for name, t in weights.items() if name not in present)
    return result


def shapes_by_name(proto: onnx.ModelProto) -> dict[str, tuple[Dim, ...]]:
    """The known shapes of the main graph's tensors: inputs, outputs, values, initialisers."""
    return shapes_of(proto.graph)


def shapes_of(part: onnx.GraphProto) -> dict[str, tuple[Dim, ...]]:
    """The known shapes of one graph's own tensors."""
    found: dict[str, tuple[Dim, ...]] = {
        tensor.name: tuple(tensor.dims) for tensor in part.initializer
    }
    for value in (*part.input, *part.value_info, *part.output):
        if value.type.HasField("tensor_type"):
            shape = _shape(value.type.tensor_type)
            if shape is not None:
                found.setdefault(value.name, shape)
    return found


def first_line(error: BaseException | str, limit: int = 300) -> str:
    """The first line of an error that says something, without trailing stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text.rstrip(". :")[:limit]


def _spec(value: onnx.ValueInfoProto, what: str) -> TensorSpec:
    from onnx import TensorProto

    if not value.type.HasField("tensor_type"):
        kind = (value.type.WhichOneof("value") or "untyped").removesuffix("_type")
        raise ModelError(
            f"{what} '{value.name}' is no tensor but a value of the kind '{kind}'",
            hint="export the model with tensors at its border (skl2onnx: zipmap=False)",
        )
    tensor = value.type.tensor_type
    if tensor.elem_type not in TensorProto.DataType.values() or not tensor.elem_type:
        raise ModelError(f"{what} '{value.name}' has no known element type ({tensor.elem_type})")
    return TensorSpec(name=value.name, dtype=dtype_name(tensor.elem_type), shape=_shape(tensor))


def dtype_name(data_type: int) -> str:
    """The numpy name of an ONNX element type: 1 is ``float32``; strings are ``str``."""
    from onnx import TensorProto

    name: str = TensorProto.DataType.Name(data_type).lower()
    return {"float": "float32", "double": "float64", "string": "str"}.get(name, name)


def _shape(tensor: Any) -> tuple[Dim, ...] | None:
    if not tensor.HasField("shape"):
        return None
    dims: list[Dim] = []
    for dim in tensor.shape.dim:
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            dims.append(int(dim.dim_value))
        else:
            dims.append(dim.dim_param or None)
    return tuple(dims)


def _assign(message: Any, field: str, value: Any) -> None:
    if hasattr(value, "CopyFrom"):
        getattr(message, field).CopyFrom(value)
    elif hasattr(value, "extend"):
        getattr(message, field).extend(value)
    else:
        setattr(message, field, value)


def _copy_subgraph_values(inferred: onnx.GraphProto, result: onnx.GraphProto) -> None:
    pairs = zip(list(graphs(inferred))[1:], list(graphs(result))[1:], strict=True)
    for source, target in pairs:
        target.ClearField("value_info")
        target.value_info.extend(source.value_info)
