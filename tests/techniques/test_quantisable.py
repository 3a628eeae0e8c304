from __future__ import annotations

from pathlib import Path

import onnx

from strop.techniques.folding import prepare
from strop.techniques.onnx_view import GraphView
from strop.techniques.quantisable import find_layers, plan

from . import small_graphs as small
from .small_graphs import floats, node


def residual(folder: Path) -> onnx.ModelProto:
    """stem → [body → Clip → (+ stem) → MaxPool → head]; the head's result leaves through Relu."""
    nodes = [
        node("Conv", ["x", "w1"], ["c1"], name="stem", pads=[1] * 4),
        node("Conv", ["c1", "w2", "b2"], ["c2"], name="body", pads=[1] * 4, group=8),
        node("Clip", ["c2", "zero", "six"], ["r2"], name="clip"),
        node("Add", ["r2", "c1"], ["s"], name="sum"),
        node("MaxPool", ["s"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p", "w3"], ["c3"], name="head"),
        node("Sigmoid", ["c3"], ["y"], name="sigmoid"),
    ]
    constants = {
        "w1": floats(8, 3, 3, 3, seed=1),
        "w2": floats(8, 1, 3, 3, seed=2),
        "b2": floats(8, seed=3),
        "w3": floats(5, 8, 1, 1, seed=4),
        "zero": 0.0,
        "six": 6.0,
    }
    model = small.seal(
        folder, nodes, constants, inputs={"x": ("n", 3, 8, 8)}, outputs={"y": ("n", 5, 4, 4)}
    )
    return prepare(small.proto_of(model))


def test_layers_know_their_parts(tmp_path: Path) -> None:
    stem, body, head = find_layers(GraphView(residual(tmp_path)))
    assert (stem.output, stem.bias, stem.groups) == ("c1", None, 1)
    assert (body.raw_output, body.output, body.bias, body.groups) == ("c2", "r2", "b2", 8)
    assert (head.data, head.output) == ("p", "c3")


def test_chains_stay_in_int8_and_moves_share_a_scale(tmp_path: Path) -> None:
    found = plan(GraphView(residual(tmp_path)))
    assert found.tensors == ("c1", "c3", "p", "r2", "s", "x")
    assert found.everywhere == {"c1", "c3", "p", "r2", "s"}
    assert found.readers == {"stem", "body", "sum", "pool", "head"}
    assert ("p", "s") in found.groups
    assert len(found.groups) == 5


def test_float_layers_are_left_out_with_what_only_they_need(tmp_path: Path) -> None:
    found = plan(GraphView(residual(tmp_path)), keep_float=["body"])
    assert [layer.name for layer in found.layers] == ["stem", "head"]
    assert "r2" not in found.tensors
    assert "sum" not in found.readers


def test_a_convolution_that_writes_an_output_stays_float(tmp_path: Path) -> None:
    model = small.seal(
        tmp_path,
        [node("Conv", ["x", "w"], ["c"], name="a"), node("Relu", ["c"], ["y"], name="r")],
        {"w": floats(4, 3, 1, 1)},
        inputs={"x": ("n", 3, 4, 4)},
        outputs={"y": ("n", 4, 4, 4)},
    )
    view = GraphView(prepare(small.proto_of(model)))
    assert len(find_layers(view)) == 1
    assert not plan(view).layers


def test_products_of_activations_and_odd_gemms_are_no_layers(tmp_path: Path) -> None:
    model = small.seal(
        tmp_path,
        [
            node("MatMul", ["x", "x"], ["a"]),
            node("Gemm", ["a", "w"], ["b"], alpha=2.0),
            node("Gemm", ["b", "w"], ["y"], transA=1),
        ],
        {"w": floats(4, 4)},
        inputs={"x": (4, 4)},
        outputs={"y": (4, 4)},
    )
    assert not find_layers(GraphView(prepare(small.proto_of(model))))


def recommender(folder: Path) -> onnx.ModelProto:
    """Two embeddings, their product beside a tower with a Relu at its end; a head over both."""
    nodes = [
        node("ArgMax", ["x"], ["row"], name="row", axis=1, keepdims=0),
        node("Gather", ["users", "row"], ["u"], name="user"),
        node("Gather", ["items", "row"], ["i"], name="item"),
        node("Mul", ["u", "i"], ["product"], name="product"),
        node("Concat", ["u", "i"], ["pair"], name="pair", axis=1),
        node("Gemm", ["pair", "w1", "b1"], ["g1"], name="first"),
        node("Relu", ["g1"], ["r1"], name="relu1"),
        node("Gemm", ["r1", "w2", "b2"], ["g2"], name="second"),
        node("Relu", ["g2"], ["r2"], name="relu2"),
        node("Concat", ["product", "r2"], ["both"], name="both", axis=1),
        node("Gemm", ["both", "w3", "b3"], ["y"], name="head"),
    ]
    constants = {
        "users": floats(6, 8, seed=1),
        "items": floats(6, 8, seed=2),
        "w1": floats(16, 12, seed=3),
        "b1": floats(12, seed=4),
        "w2": floats(12, 8, seed=5),
        "b2": floats(8, seed=6),
        "w3": floats(16, 1, seed=7),
        "b3": floats(1, seed=8),
    }
    model = small.seal(folder, nodes, constants, inputs={"x": ("n", 6)}, outputs={"y": ("n", 1)})
    return prepare(small.proto_of(model))


def test_narrow_reach_ends_at_tables_and_at_products(tmp_path: Path) -> None:
    found = plan(GraphView(recommender(tmp_path)))
    assert found.readers == {"first", "second", "head"}
    assert found.tensors == ("both", "pair", "r1")


def test_wide_reach_takes_tables_and_what_a_product_writes(tmp_path: Path) -> None:
    found = plan(GraphView(recommender(tmp_path)), reach="wide")
    operators = {"user", "item", "product", "pair", "both"}
    assert found.readers == operators | {"first", "second", "head"}
    assert {"users", "items", "u", "i", "product", "r2"} <= set(found.tensors)
    assert "r2" in found.everywhere
    assert not {"users", "items"} & found.everywhere
    # A table shares the scale of its rows, and rows that are joined share one.
    assert ("i", "items", "pair", "u", "users") in found.groups
    # What a Relu writes keeps its own, or the Relu could not be dropped.
    assert ("both", "product") in found.groups
    assert ("r2",) in found.groups


def test_wide_reach_goes_through_sums_with_a_relu_and_with_constants(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w1"], ["c1"], name="a"),
        node("Conv", ["c1", "w2"], ["c2"], name="b"),
        node("Add", ["c1", "c2"], ["s"], name="sum"),
        node("Relu", ["s"], ["r"], name="relu"),
        node("Mul", ["r", "factor"], ["m"], name="scaled"),
        node("Conv", ["m", "w3"], ["c3"], name="c"),
        node("Sigmoid", ["c3"], ["y"], name="sigmoid"),
    ]
    constants = {
        "w1": floats(4, 3, 1, 1, seed=1),
        "w2": floats(4, 4, 1, 1, seed=2),
        "w3": floats(5, 4, 1, 1, seed=3),
        "factor": floats(4, 1, 1, seed=4),
    }
    model = small.seal(
        tmp_path, nodes, constants, inputs={"x": ("n", 3, 4, 4)}, outputs={"y": ("n", 5, 4, 4)}
    )
    view = GraphView(prepare(small.proto_of(model)))
    assert plan(view).readers == {"a", "b", "c"}
    found = plan(view, reach="wide")
    assert found.readers == {"a", "b", "c", "sum", "scaled"}
    assert {"r", "factor", "m"} <= set(found.tensors)
    assert "s" not in found.tensors  # the Relu goes into the sum
    without = plan(view, keep_float=["c"], reach="wide")
    assert without.readers == {"a", "b"}
