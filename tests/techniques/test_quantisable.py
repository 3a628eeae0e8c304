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
