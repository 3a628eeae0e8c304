"""Operators that work number by number, activations included."""

from __future__ import annotations

import operator as python
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from strop.models.onnx_ops.builder import Builder, Call, Constant, Value, operator

_UNARY: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
}
_BINARY: dict[str, Callable[..., Any]] = {
    "Add": python.add,
    "And": torch.logical_and,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": python.mul,
    "Or": torch.logical_or,
    "Pow": torch.pow,
    "Sub": python.sub,
    "Xor": torch.logical_xor,
}
_ON_TENSORS = ("And", "Or", "Xor")
_COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
_MIRRORED = {
    "Equal": torch.eq,
    "Greater": torch.lt,
    "GreaterOrEqual": torch.le,
    "Less": torch.gt,
    "LessOrEqual": torch.ge,
}
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "HardSwish": nn.Hardswish,
    "Mish": nn.Mish,
    "Relu": nn.ReLU,
    "Sigmoid": nn.Sigmoid,
    "Softplus": nn.Softplus,
    "Softsign": nn.Softsign,
    "Swish": nn.SiLU,
    "Tanh": nn.Tanh,
}
_DTYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}


@operator(*_UNARY)
def unary(builder: Builder, call: Call) -> Value:
    return builder.call(_UNARY[call.kind], builder.tensor(call.inputs[0]))


@operator(*_ACTIVATIONS)
def activation(builder: Builder, call: Call) -> Value:
    return builder.layer(call, _ACTIVATIONS[call.kind], builder.tensor(call.inputs[0]))


@operator(*_BINARY)
def binary(builder: Builder, call: Call) -> Value:
    if call.kind in _ON_TENSORS:
        left, right = (builder.tensor(value) for value in call.inputs)
        return builder.call(_BINARY[call.kind], left, right)
    left, right = builder.operand(call, 0), builder.operand(call, 1)
    if not isinstance(left, fx.Node) and call.kind in _COMPARISONS:
        return builder.call(_MIRRORED[call.kind], right, left)  # torch wants the tensor first
    return builder.call(_BINARY[call.kind], left, right)


@operator("Div")
def div(builder: Builder, call: Call) -> Value:
    left, right = builder.operand(call, 0), builder.operand(call, 1)
    dtype = builder.dtype(call.input_names[0]) or builder.dtype(call.input_names[1]) or ""
    if dtype.startswith(("int", "uint")):
        tensors = builder.tensor(call.inputs[0]), builder.tensor(call.inputs[1])
        return builder.call(torch.div, *tensors, rounding_mode="trunc")
    return builder.call(python.truediv, left, right)


@operator("Mod")
def mod(builder: Builder, call: Call) -> Value:
    function = torch.fmod if call.attributes.get("fmod", 0) else torch.remainder
    return builder.call(function, builder.tensor(call.inputs[0]), builder.tensor(call.inputs[1]))


@operator("IsInf")
def is_inf(builder: Builder, call: Call) -> Value:
    up = call.attributes.get("detect_positive", 1)
    down = call.attributes.get("detect_negative", 1)
    function = torch.isinf if up and down else torch.isposinf if up else torch.isneginf
    return builder.call(function, builder.tensor(call.inputs[0]))


@operator("Sum", "Max", "Min", "Mean")
def variadic(builder: Builder, call: Call) -> Value:
    functions = {"Max": torch.maximum, "Min": torch.minimum}
    if call.kind in functions and len(call.inputs) == 2:
        for place in (0, 1):
            bound = builder.operand(call, place)
            if not isinstance(bound, fx.Node):  # a plain number: clamp needs no tensor for it
                side = {"min": bound} if call.kind == "Max" else {"max": bound}
                return builder.call(torch.clamp, builder.tensor(call.inputs[1 - place]), **side)
    total = builder.tensor(call.inputs[0])
    for value in call.inputs[1:]:
        total = builder.call(functions.get(call.kind, python.add), total, builder.tensor(value))
    return builder.call(python.truediv, total, len(call.inputs)) if call.kind == "Mean" else total


@operator("Where")
def where(builder: Builder, call: Call) -> Value:
    choice = builder.tensor(call.inputs[0])
    # Two plain numbers would take torch's default type instead of their own.
    yes, no = builder.operand(call, 1), builder.operand(call, 2)
    if not isinstance(yes, fx.Node) and not isinstance(no, fx.Node):
        yes = builder.tensor(call.inputs[1])
    return builder.call(torch.where, choice, yes, no)


@operator("Cast")
def cast(builder: Builder, call: Call) -> Value:
    dtype = _DTYPES.get(int(call.attributes["to"]))
    if dtype is None:
        raise call.fails("casts to a type that PyTorch lacks")
    return builder.method("to", builder.tensor(call.inputs[0]), dtype)


@operator("CastLike")
def cast_like(builder: Builder, call: Call) -> Value:
    return builder.method("type_as", *(builder.tensor(value) for value in call.inputs))


@operator("Identity", "Dropout")
def identity(builder: Builder, call: Call) -> Value:
    if any(builder.is_read(name) for name in call.output_names[1:]):
        raise call.fails("gives its mask, which only training has")
    value = call.inputs[0]
    assert value is not None
    return value


@operator("Clip")
def clip(builder: Builder, call: Call) -> Value:
    x = builder.tensor(call.inputs[0])
    low, high = (
        builder.operand(call, place) if call.input(place) is not None else None for place in (1, 2)
    )
    if (low, high) == (0, 6):
        return builder.layer(call, nn.ReLU6, x)
    if low == 0 and high is None:
        return builder.layer(call, nn.ReLU, x)
    if low is None and high is None:
        return x
    if isinstance(low, fx.Node) != isinstance(high, fx.Node):  # torch takes two of one kind
        low, high = (
            builder.tensor(value) if value is not None else None
            for value in (call.input(1), call.input(2))
        )
    return builder.call(torch.clamp, x, low, high)


@operator("Gelu", "com.microsoft.Gelu")
def gelu(builder: Builder, call: Call) -> Value:
    how = _text(call.attributes.get("approximate", b"none"))
    return builder.layer(call, lambda: nn.GELU(approximate=how), builder.tensor(call.inputs[0]))


@operator("LeakyRelu")
def leaky_relu(builder: Builder, call: Call) -> Value:
    slope = float(call.attributes.get("alpha", 0.01))
    return builder.layer(call, lambda: nn.LeakyReLU(slope), builder.tensor(call.inputs[0]))


@operator("Elu", "Celu")
def elu(builder: Builder, call: Call) -> Value:
    alpha = float(call.attributes.get("alpha", 1.0))
    kind = nn.ELU if call.kind == "Elu" else nn.CELU
    return builder.layer(call, lambda: kind(alpha), builder.tensor(call.inputs[0]))


@operator("Selu")
def selu(builder: Builder, call: Call) -> Value:
    if {"alpha", "gamma"} & call.attributes.keys():
        raise call.fails("has factors other than SELU's own")
    return builder.layer(call, nn.SELU, builder.tensor(call.inputs[0]))


@operator("HardSigmoid")
def hard_sigmoid(builder: Builder, call: Call) -> Value:
    alpha = float(call.attributes.get("alpha", 0.2))
    beta = float(call.attributes.get("beta", 0.5))
    x = builder.tensor(call.inputs[0])
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return builder.layer(call, nn.Hardsigmoid, x)
    return builder.call(torch.clamp, builder.call(_scaled, x, alpha, beta), 0.0, 1.0)


@operator("ThresholdedRelu")
def thresholded_relu(builder: Builder, call: Call) -> Value:
    bound = float(call.attributes.get("alpha", 1.0))
    return builder.call(functional.threshold, builder.tensor(call.inputs[0]), bound, 0.0)


@operator("PRelu")
def prelu(builder: Builder, call: Call) -> Value:
    x, slope = builder.tensor(call.inputs[0]), call.inputs[1]
    shape = builder.shape(call.input_names[0])
    if isinstance(slope, Constant) and shape is not None and len(shape) > 1:
        sizes = slope.array.shape
        channels = sizes[1 - len(shape)] if len(sizes) >= len(shape) - 1 else 0
        if slope.array.size in (1, channels):
            layer = nn.PReLU(slope.array.size, device="meta")
            layer.weight = builder.parameter(Constant(slope.array.reshape(-1)))
            return builder.layer(call, lambda: layer, x)
    return builder.call(_leak, x, builder.tensor(slope))


def _scaled(x: torch.Tensor, factor: float, shift: float) -> torch.Tensor:
    return x * factor + shift


def _leak(x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return torch.where(x < 0, x * slope, x)


def _text(value: bytes | str | Sequence[Any]) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
