"""Small ONNX models made on the spot, to measure the machine with rather than a user's model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from strop.records import Placement, SessionSpec, Signature, TensorSpec

Kind = Literal["fp32", "int8"]

_OPSET = 17
_IR = 8


def matmul(
    folder: Path, *, size: int, threads: int, kind: Kind = "fp32", engine: str = "onnxruntime"
) -> tuple[SessionSpec, dict[str, np.ndarray]]:
    """A product of a [size, size] input and [size, size] weights, ``2 * size**3`` operations.

    ``fp32`` is a MatMul; ``int8`` a MatMulInteger of uint8 inputs and int8 weights, the form that
    quantised linear layers take on CPUs.

    Parameters
    ----------
    folder
        An existing folder; ``model.onnx`` is written into it.

    Returns
    -------
    tuple
        What loads it, and a batch of inputs.
    """
    from onnx import helper, numpy_helper, save

    random = np.random.default_rng(0)
    weights: np.ndarray
    x: np.ndarray
    if kind == "fp32":
        operator, result = "MatMul", "float32"
        weights = random.standard_normal((size, size), dtype=np.float32)
        x = random.standard_normal((size, size), dtype=np.float32)
    else:
        operator, result = "MatMulInteger", "int32"
        weights = random.integers(-63, 64, (size, size), dtype=np.int8)
        x = random.integers(0, 128, (size, size), dtype=np.uint8)
    types = [helper.np_dtype_to_tensor_dtype(dtype) for dtype in (x.dtype, np.dtype(result))]
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "weights"], ["y"])],
        "matmul",
        [helper.make_tensor_value_info("x", types[0], [size, size])],
        [helper.make_tensor_value_info("y", types[1], [size, size])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR
    )
    path = folder / "model.onnx"
    save(model, path)
    spec = SessionSpec(
        engine=engine,
        artifact=str(path),
        signature=Signature(
            inputs=(TensorSpec(name="x", dtype=str(x.dtype), shape=(size, size)),),
            outputs=(TensorSpec(name="y", dtype=result, shape=(size, size)),),
        ),
        placement=Placement(threads=threads),
    )
    return spec, {"x": x}
