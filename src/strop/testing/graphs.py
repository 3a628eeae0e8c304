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


def _spec(name: str, dtype: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def _random(seed: int, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
