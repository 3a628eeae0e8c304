"""A variance written as a difference of squares becomes one that no rounding spoils."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from strop.models.onnx_converter import to_module
from strop.models.onnx_ops.patterns import recognise

torch = pytest.importorskip("torch")

COLUMNS = 16
SHAPES = {"x": ["n", COLUMNS, 3], "q": ["n", COLUMNS, 3]}


def variance(*, factor: float = 1 / COLUMNS, axis: int = 1):
    """E[x²] − E[x]² over the columns of float32[n, 16, 3], as XLA writes it."""
    nodes = [
        ("Mul", ["x", "x"], "q", {}),
        ("ReduceSum", ["q", "axes"], "sq", {"keepdims": 0}),
        ("Mul", ["sq", "c"], "mq", {}),
        ("ReduceSum", ["x", "axes"], "s", {"keepdims": 0}),
        ("Mul", ["s", "c"], "m", {}),
        ("Mul", ["m", "m"], "mm", {}),
        ("Sub", ["mq", "mm"], "y", {}),
    ]
    info = helper.make_tensor_value_info
    return helper.make_model(
        helper.make_graph(
            [helper.make_node(kind, given, [out], **more) for kind, given, out, more in nodes],
            "variance",
            [info("x", TensorProto.FLOAT, ["n", COLUMNS, 3])],
            [info("y", TensorProto.FLOAT, ["n", 3])],
            [
                numpy_helper.from_array(np.array([axis]), "axes"),
                numpy_helper.from_array(np.float32(factor), "c"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )


def test_it_is_a_mean_of_squares() -> None:
    module = to_module(variance())
    # Every value is near 100: the squares are near 10,000, of which float32 keeps 7 digits.
    x = (100 + 1e-3 * np.random.default_rng(0).standard_normal((2, COLUMNS, 3))).astype(np.float32)
    with torch.no_grad():
        found = module(torch.from_numpy(x)).numpy()
    assert np.allclose(found, x.astype(np.float64).var(axis=1), rtol=1e-2)
    assert (found >= 0).all()


@pytest.mark.parametrize("change", [{"factor": 1 / 15}, {"axis": 0}])
def test_what_is_no_variance_stays(change) -> None:
    proto = recognise(variance(**change), SHAPES)
    assert [node.op_type for node in proto.graph.node][-1] == "Sub"


def test_without_the_shapes_nothing_is_known() -> None:
    assert recognise(variance()).graph.node[-1].op_type == "Sub"
    assert recognise(variance(), SHAPES).graph.node[-1].op_type == "ReduceVariance"
