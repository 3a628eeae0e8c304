"""The small networks that the benchmark serves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save


def perceptron(path: Path) -> Path:
    """64 → 32 → 10 with a ReLU between, of any number of rows."""
    random = np.random.default_rng(0)
    first = random.standard_normal((64, 32)).astype(np.float32) / 8
    second = random.standard_normal((32, 10)).astype(np.float32) / 6
    return _write(
        path,
        [
            helper.make_node("MatMul", ["x", "first"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "second"], ["y"]),
        ],
        ["rows", 64],
        ["rows", 10],
        {"first": first, "second": second},
    )


def telltale(path: Path) -> Path:
    """``y = 1.5 x + sum(x)`` of each row, of any length: every value tells whose answer it is."""
    return _write(
        path,
        [
            helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=1),
            helper.make_node("Mul", ["x", "w"], ["scaled"]),
            helper.make_node("Add", ["scaled", "sum"], ["y"]),
        ],
        ["rows", "length"],
        ["rows", "length"],
        {"axes": np.array([1], np.int64), "w": np.array(1.5, np.float32)},
    )


def _write(
    path: Path,
    nodes: list,
    given: list,
    returned: list,
    constants: dict[str, np.ndarray],
) -> Path:
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, returned)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = helper.make_opsetid("", 17)
    save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return path
