from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from strop.models.nodes import nodes


def test_nodes_come_with_costs_and_tensors_with_bytes() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="fc"),
            helper.make_node("Relu", ["h"], ["y"], name="act"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(np.zeros((6, 8), np.float32), "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found, sizes = nodes(proto, {"x": np.zeros((5, 6), np.float32)})
    assert [(node.name, node.flops) for node in found] == [("fc", 2 * 5 * 6 * 8), ("act", 40)]
    assert found[0].inputs == ("x", "w") and found[0].outputs == ("h",)
    assert found[0].bytes_moved == 4 * (5 * 6 + 6 * 8 + 5 * 8)
    assert sizes == {"x": 120, "w": 192, "h": 160, "y": 160}
