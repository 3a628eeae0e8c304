"""Small networks with known answers, for conformance suites."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from strop.models.model import Model
from strop.records import Signature, TensorSpec

Arrays = dict[str, np.ndarray]

_WEIGHT = np.random.default_rng(7).standard_normal((4, 3)).astype(np.float32)
_BIAS = np.array([0.5, -0.25, 0.125], np.float32)


@dataclass(frozen=True)
class Case:
    """A network, what it computes in numpy, and inputs for it.

    Attributes
    ----------
    signature
        Its inputs and outputs; the first dimension of each is free.
    answer
        The exact outputs for given inputs.
    inputs
        ``inputs(rows, seed)``: arrays for that many rows.
    nodes, constants
        The ONNX graph: nodes as ``(operator, inputs, outputs, attributes)``.
    """

    name: str
    signature: Signature
    answer: Callable[[Arrays], Arrays]
    inputs: Callable[[int, int], Arrays]
    nodes: tuple[tuple[str, list[str], list[str], dict[str, Any]], ...]
    constants: Mapping[str, np.ndarray]

    def write(self, folder: Path) -> Model:
        """The network as a sealed model with an ONNX form, below `folder`."""
        import onnx
        from onnx import helper, numpy_helper

        def info(spec: TensorSpec) -> Any:
            dtype = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
            return helper.make_tensor_value_info(spec.name, dtype, list(spec.shape or ()))

        graph = helper.make_graph(
            [
                helper.make_node(kind, inputs, outputs, **more)
                for kind, inputs, outputs, more in self.nodes
            ],
            self.name,
            [info(spec) for spec in self.signature.inputs],
            [info(spec) for spec in self.signature.outputs],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        onnx.checker.check_model(proto, full_check=True)
        (folder / "onnx").mkdir(parents=True)
        onnx.save(proto, folder / "onnx" / "model.onnx")
        return Model.seal(folder, self.signature)


def linear() -> Case:
    """relu(x · w + b), with names that are no Python identifiers."""

    def inputs(rows: int, seed: int) -> Arrays:
        return {"input.1": _random(seed, (rows, 4), np.float32)}

    def answer(arrays: Arrays) -> Arrays:
        return {"logits:0": np.maximum(arrays["input.1"] @ _WEIGHT + _BIAS, 0)}

    return Case(
        "linear",
        Signature(
            inputs=(_spec("input.1", "float32", "n", 4),),
            outputs=(_spec("logits:0", "float32", "n", 3),),
        ),
        answer,
        inputs,
        (
            ("MatMul", ["input.1", "w"], ["xw"], {}),
            ("Add", ["xw", "b"], ["biased"], {}),
            ("Relu", ["biased"], ["logits:0"], {}),
        ),
        {"w": _WEIGHT, "b": _BIAS},
    )


def several() -> Case:
    """Inputs and outputs of several dtypes, two free dimensions, an input that nothing reads."""

    def inputs(rows: int, seed: int) -> Arrays:
        random = np.random.default_rng(seed)
        return {
            "x": _random(seed, (rows, 4), np.float32),
            "ids": random.integers(-9, 9, (rows, 2 + seed % 3), np.int64),
            "keep": random.random(rows) < 0.5,
        }

    def answer(arrays: Arrays) -> Arrays:
        return {
            "total": arrays["x"].sum(axis=1, keepdims=True),
            "double": arrays["ids"] * 2,
            "positive": arrays["x"] > 0,
        }

    return Case(
        "several",
        Signature(
            inputs=(
                _spec("x", "float32", "n", 4),
                _spec("ids", "int64", "n", "length"),
                _spec("keep", "bool", "n"),
            ),
            outputs=(
                _spec("total", "float32", "n", 1),
                _spec("double", "int64", "n", "length"),
                _spec("positive", "bool", "n", 4),
            ),
        ),
        answer,
        inputs,
        (
            ("ReduceSum", ["x", "axes"], ["total"], {"keepdims": 1}),
            ("Add", ["ids", "ids"], ["double"], {}),
            ("Greater", ["x", "zero"], ["positive"], {}),
        ),
        {"axes": np.array([1]), "zero": np.array(0, np.float32)},
    )


def passthrough() -> Case:
    """An output that is the input, and one that a runtime may compute in the input's memory."""

    def inputs(rows: int, seed: int) -> Arrays:
        return {"x": _random(seed, (rows, 4), np.float32)}

    def answer(arrays: Arrays) -> Arrays:
        return {"same": arrays["x"], "clipped": np.maximum(arrays["x"], 0)}

    return Case(
        "passthrough",
        Signature(
            inputs=(_spec("x", "float32", "n", 4),),
            outputs=(_spec("same", "float32", "n", 4), _spec("clipped", "float32", "n", 4)),
        ),
        answer,
        inputs,
        (("Identity", ["x"], ["same"], {}), ("Relu", ["x"], ["clipped"], {})),
        {},
    )


def no_weights() -> Case:
    """A comparison of integers: there is nothing in it to quantise, to fuse or to leave out."""

    def inputs(rows: int, seed: int) -> Arrays:
        return {"ids": np.random.default_rng(seed).integers(-9, 9, (rows, 4), np.int64)}

    def answer(arrays: Arrays) -> Arrays:
        return {"equal": arrays["ids"] == arrays["ids"][:, ::-1]}

    return Case(
        "no_weights",
        Signature(
            inputs=(_spec("ids", "int64", "n", 4),), outputs=(_spec("equal", "bool", "n", 4),)
        ),
        answer,
        inputs,
        (
            ("Gather", ["ids", "order"], ["back"], {"axis": 1}),
            ("Equal", ["ids", "back"], ["equal"], {}),
        ),
        {"order": np.array([3, 2, 1, 0])},
    )


def half() -> Case:
    """FP16 at the border, as the `fp16` technique never writes but users' models do."""

    def inputs(rows: int, seed: int) -> Arrays:
        return {"x": _random(seed, (rows, 4), np.float16)}

    def answer(arrays: Arrays) -> Arrays:
        return {"y": arrays["x"] * np.float16(0.5)}

    return Case(
        "half",
        Signature(
            inputs=(_spec("x", "float16", "n", 4),), outputs=(_spec("y", "float16", "n", 4),)
        ),
        answer,
        inputs,
        (("Mul", ["x", "factor"], ["y"], {}),),
        {"factor": np.array(0.5, np.float16)},
    )


def perceptron() -> Case:
    """Three layers of matrix products, nearly all of whose work can be quantised."""
    constants = _layers((64, 64), (64, 64), (64, 10))

    def inputs(rows: int, seed: int) -> Arrays:
        return {"x": _random(seed, (rows, 64), np.float32)}

    def answer(arrays: Arrays) -> Arrays:
        hidden = arrays["x"]
        for number in range(3):
            hidden = hidden @ constants[f"w{number}"] + constants[f"b{number}"]
            hidden = np.maximum(hidden, 0) if number < 2 else hidden
        return {"y": hidden}

    return Case(
        "perceptron",
        Signature(
            inputs=(_spec("x", "float32", "n", 64),), outputs=(_spec("y", "float32", "n", 10),)
        ),
        answer,
        inputs,
        (
            ("MatMul", ["x", "w0"], ["m0"], {}),
            ("Add", ["m0", "b0"], ["a0"], {}),
            ("Relu", ["a0"], ["h0"], {}),
            ("Identity", ["h0"], ["i0"], {}),  # something for a clean-up to find
            ("MatMul", ["i0", "w1"], ["m1"], {}),
            ("Add", ["m1", "b1"], ["a1"], {}),
            ("Relu", ["a1"], ["h1"], {}),
            ("MatMul", ["h1", "w2"], ["m2"], {}),
            ("Add", ["m2", "b2"], ["y"], {}),
        ),
        constants,
    )


def convolutional() -> Case:
    """Two convolutions without padding, a pool over all places, and a classifier."""
    constants = _layers((16, 3, 3, 3), (32, 16, 3, 3), (32, 10))

    def inputs(rows: int, seed: int) -> Arrays:
        return {"image": _random(seed, (rows, 3, 10, 10), np.float32)}

    def answer(arrays: Arrays) -> Arrays:
        hidden = arrays["image"]
        for number in range(2):
            hidden = _convolve(hidden, constants[f"w{number}"], constants[f"b{number}"])
            hidden = np.maximum(hidden, 0)
        return {"logits": hidden.mean(axis=(2, 3)) @ constants["w2"] + constants["b2"]}

    return Case(
        "convolutional",
        Signature(
            inputs=(_spec("image", "float32", "n", 3, 10, 10),),
            outputs=(_spec("logits", "float32", "n", 10),),
        ),
        answer,
        inputs,
        (
            ("Conv", ["image", "w0", "b0"], ["c0"], {}),
            ("Relu", ["c0"], ["h0"], {}),
            ("Conv", ["h0", "w1", "b1"], ["c1"], {}),
            ("Relu", ["c1"], ["h1"], {}),
            ("GlobalAveragePool", ["h1"], ["pooled"], {}),
            ("Flatten", ["pooled"], ["flat"], {}),
            ("Gemm", ["flat", "w2", "b2"], ["logits"], {}),
        ),
        constants,
    )


def _layers(*shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Weights ``w0``, ``w1`` … that keep the variance (He et al., 2015), and biases."""
    constants: dict[str, np.ndarray] = {}
    for number, shape in enumerate(shapes):
        fan_in = shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))
        weight = _random(number, shape, np.float32) * np.float32(np.sqrt(2 / fan_in))
        outputs = shape[1] if len(shape) == 2 else shape[0]
        constants[f"w{number}"] = weight
        constants[f"b{number}"] = _random(100 + number, (outputs,), np.float32) / np.float32(10)
    return constants


def _convolve(images: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    patches = np.lib.stride_tricks.sliding_window_view(images, weight.shape[2:], axis=(2, 3))
    result: np.ndarray = np.einsum("ncyxij,ocij->noyx", patches, weight) + bias[:, None, None]
    return result


def _spec(name: str, dtype: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def _random(seed: int, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
