from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from strop.models import graph
from strop.models.runner import run
from strop.techniques.fusion import drop_dead_nodes
from strop.techniques.lookups import look_up_one_hot_products, move_into_tables
from strop.techniques.onnx_view import name_nodes

from .small_graphs import floats, node

DEPTH, WIDTH = 7, 4


def build(nodes: list, constants: dict[str, np.ndarray], outputs: list[str]) -> onnx.ModelProto:
    """A graph over int32 ids [rows, 3]."""
    body = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT32, ["rows", 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    proto = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    name_nodes(proto.graph)
    return graph.infer_shapes(proto)


def one_hot_product(count: np.ndarray | None = None) -> tuple[list, dict[str, np.ndarray]]:
    nodes = [
        node("Unsqueeze", ["ids", "axes"], ["wide"]),
        node("Equal", ["wide", "count"], ["same"]),
        node("Cast", ["same"], ["hot"], to=TensorProto.FLOAT),
        node("MatMul", ["hot", "table"], ["rows_of_table"]),
    ]
    constants = {
        "axes": np.array([-1]),
        "count": np.arange(DEPTH, dtype=np.int32)[None, None] if count is None else count,
        "table": floats(DEPTH, WIDTH),
    }
    return nodes, constants


def compare(proto: onnx.ModelProto, *rewrites) -> tuple[dict[str, int], float]:
    """Operators after the rewrites, and the greatest error, on ids inside the table and not."""
    ids = np.array([[0, 1, 6], [3, -1, 7], [2**31 - 1, -(2**31), 5]], np.int32)
    before = run(proto, {"ids": ids})
    for rewrite in rewrites:
        rewrite(proto)
    drop_dead_nodes(proto)
    after = run(proto, {"ids": ids})
    errors = [np.abs(before[name] - after[name]).max() for name in before]
    assert all(before[name].shape == after[name].shape for name in before)
    return dict(graph.operators(proto)), float(max(errors))


def test_a_one_hot_product_is_a_lookup_with_zeros_outside_the_table() -> None:
    operators, error = compare(
        build(*one_hot_product(), ["rows_of_table"]), look_up_one_hot_products
    )
    assert operators == {"Unsqueeze": 1, "Squeeze": 1, "Add": 1, "Clip": 1, "Gather": 1}
    assert error == 0


@pytest.mark.parametrize(
    "count",
    [np.arange(1, DEPTH + 1, dtype=np.int32), np.zeros(DEPTH, np.int32)],
    ids=["from one", "constant"],
)
def test_other_comparisons_are_no_lookup(count: np.ndarray) -> None:
    proto = build(*one_hot_product(count[None, None]), ["rows_of_table"])
    operators, error = compare(proto, look_up_one_hot_products)
    assert operators["MatMul"] == 1
    assert error == 0


def test_pointwise_work_moves_into_the_table() -> None:
    nodes, constants = one_hot_product()
    nodes += [
        node("Add", ["rows_of_table", "bias"], ["a"]),
        node("Tanh", ["a"], ["b"]),
        node("Mul", ["a", "b"], ["c"]),
        node("ReduceSum", ["c", "axes"], ["y"], keepdims=0),
    ]
    constants["bias"] = floats(1, 1, WIDTH, seed=1)
    proto = build(nodes, constants, ["y"])
    operators, error = compare(proto, look_up_one_hot_products, move_into_tables)
    expected = {"Unsqueeze": 1, "Squeeze": 1, "Add": 1, "Clip": 1, "Gather": 1, "ReduceSum": 1}
    assert operators == expected
    assert error < 1e-5


def lookup(*more) -> list:
    return [node("Gather", ["table", "ids"], ["rows_of_table"]), *more]


@pytest.mark.parametrize(
    ("nodes", "constants", "outputs"),
    [
        pytest.param(
            lookup(
                node("Relu", ["rows_of_table"], ["a"]),
                node("ReduceSum", ["a"], ["y"]),
                node("ReduceSum", ["rows_of_table"], ["z"]),
            ),
            {},
            ["y", "z"],
            id="rows read elsewhere",
        ),
        pytest.param(
            lookup(
                node("Add", ["rows_of_table", "places"], ["a"]), node("ReduceSum", ["a"], ["y"])
            ),
            {"places": floats(3, WIDTH)},
            ["y"],
            id="a constant that varies by place",
        ),
        pytest.param(
            lookup(
                node("Relu", ["rows_of_table"], ["a"]),
                node("MatMul", ["a", "turned"], ["y"]),
                node("Transpose", ["table"], ["turned"]),
            ),
            {},
            ["y"],
            id="a tied table",
        ),
        pytest.param(lookup(node("Relu", ["rows_of_table"], ["y"])), {}, ["y"], id="an output"),
    ],
)
def test_tables_that_stay(nodes: list, constants: dict, outputs: list[str]) -> None:
    proto = build(_sorted(nodes), {"table": floats(DEPTH, WIDTH), **constants}, outputs)
    ids = {"ids": np.array([[0, 1, 6]], np.int32)}
    before, operators = run(proto, ids), graph.operators(proto)
    move_into_tables(proto)
    assert graph.operators(proto) == operators
    assert all(np.array_equal(before[name], run(proto, ids)[name]) for name in outputs)


def _sorted(nodes: list) -> list:
    """Nodes that read only constants first, as ONNX wants its graphs ordered."""
    return sorted(nodes, key=lambda entry: entry.op_type != "Transpose")
