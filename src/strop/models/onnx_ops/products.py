"""Matrix products: `nn.Linear` where the weight is constant."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx, nn

from strop.models.onnx_ops.builder import Builder, Call, Constant, Value, fill, operator


@operator("MatMul")
def matmul(builder: Builder, call: Call) -> Value:
    left, right = call.inputs
    if isinstance(right, Constant) and right.array.ndim == 2 and right.array.dtype.kind in "fV":
        name, bias = _following_bias(builder, call, right.array.shape[1])
        result = _linear(builder, call, builder.tensor(left), right, name, bias)
        if name:
            sum_name = _output_of_reader(builder, call)
            builder.name(result, sum_name)
            builder.values[sum_name] = result
        return result
    return builder.call(torch.matmul, builder.tensor(left), builder.tensor(right))


@operator("Gemm")
def gemm(builder: Builder, call: Call) -> Value:
    weight, bias = call.inputs[1], call.input(2)
    alpha = float(call.attributes.get("alpha", 1.0))
    beta = float(call.attributes.get("beta", 1.0))
    from_left, from_right = (bool(call.attributes.get(n, 0)) for n in ("transA", "transB"))
    x = builder.tensor(call.inputs[0])
    if from_left:
        x = builder.call(torch.transpose, x, 0, 1)
    if isinstance(weight, Constant) and (bias is None or isinstance(bias, Constant)):
        outputs = weight.array.shape[0 if from_right else 1]
        if alpha != 1:
            weight = Constant(weight.array * weight.array.dtype.type(alpha))
        flat = None
        if bias is not None and bias.array.size in (1, outputs) and _is_row(bias.array):
            flat = np.broadcast_to(bias.array.reshape(-1), (outputs,)).copy()
            flat = flat * flat.dtype.type(beta)
        if bias is None or flat is not None:
            matrix = weight
            if from_right:
                matrix = Constant(weight.array.T, weight.name, not weight.transposed)
            given = Constant(flat) if flat is not None else None
            name = call.input_names[2] if given else ""
            return _linear(builder, call, x, matrix, name, given)
    other = builder.tensor(weight)
    if from_right:
        other = builder.call(torch.transpose, other, 0, 1)
    result = builder.call(torch.matmul, x, other)
    if alpha != 1:
        result = builder.call(torch.mul, result, alpha)
    if bias is None:
        return result
    return builder.call(torch.add, result, builder.tensor(bias), alpha=beta)


@operator("Einsum")
def einsum(builder: Builder, call: Call) -> Value:
    equation = call.attributes["equation"].decode()
    return builder.call(torch.einsum, equation, *(builder.tensor(v) for v in call.inputs))


def _linear(
    builder: Builder,
    call: Call,
    x: fx.Node,
    matrix: Constant,
    bias_name: str,
    bias: Constant | None,
) -> fx.Node:
    """`x` times a matrix of shape [inputs, outputs], plus a bias of shape [outputs]."""

    def make() -> nn.Module:
        inputs, outputs = matrix.array.shape
        layer = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
        held = builder.parameter(Constant(bias.array, bias_name)) if bias is not None else None
        return fill(layer, weight=builder.parameter(matrix, transpose=True), bias=held)

    names = (call.input_names[0], call.input_names[1], bias_name)
    named = Call(call.kind, call.name, (), names, (), {})
    key: Any = ("Linear", matrix.name, matrix.transposed, bias_name) if matrix.name else None
    return builder.layer(named, make, x, key=key)


def _following_bias(builder: Builder, call: Call, outputs: int) -> tuple[str, Constant | None]:
    """The constant that the one reader of a product adds to it, where it is a bias."""
    reader = builder.sole_reader(call.output_names[0])
    if reader is None or reader.op_type != "Add":
        return "", None
    for name in reader.input:
        bias = builder.constant(name)
        if bias is None or bias.array.shape[-1:] != (outputs,) or not _is_row(bias.array):
            continue
        shape = builder.shape(call.output_names[0])
        if bias.array.ndim == 1 or (shape is not None and len(shape) >= bias.array.ndim):
            return name, Constant(bias.array.reshape(-1), None)
    return "", None


def _output_of_reader(builder: Builder, call: Call) -> str:
    reader = builder.sole_reader(call.output_names[0])
    assert reader is not None
    return str(reader.output[0])


def _is_row(array: np.ndarray) -> bool:
    """Whether an array varies along its last axis alone."""
    return all(size == 1 for size in array.shape[:-1])
