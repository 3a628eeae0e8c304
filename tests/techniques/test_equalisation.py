from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from strop.models import relative_error
from strop.models.runner import Runner
from strop.techniques.equalisation import absorb, absorbable, equalise, find_pairs
from strop.techniques.folding import prepare
from strop.techniques.onnx_view import GraphView

from . import small_graphs as small
from .small_graphs import floats, node


def chain(
    folder: Path, activation: str, *extra: str, pads: int = 1, **attributes: Any
) -> onnx.ModelProto:
    """Pointwise, depthwise, grouped, pointwise, pool, Gemm with channels of uneven width."""

    def act(source: str, number: int) -> Any:
        return node(activation, [source, *extra], [f"a{number}"], name=f"act{number}", **attributes)

    uneven = np.logspace(-2, 1, 16)
    constants: dict[str, Any] = {
        "w0": (floats(16, 3, 1, 1, seed=1) * uneven[:, None, None, None]).astype(np.float32),
        "w1": floats(16, 1, 3, 3, seed=2),
        "w2": floats(8, 4, 1, 1, seed=3),
        "w3": floats(12, 8, 1, 1, seed=4),
        "w4": floats(5, 12, seed=5),
        "zero": 0.0,
        "six": 6.0,
        "low": -1.0,
        "slope": floats(1, 1, seed=6)[0, 0],
    }
    constants |= {f"b{i}": floats(n, seed=10 + i) for i, n in enumerate((16, 16, 8, 12, 5))}
    model = small.seal(
        folder,
        [
            node("Conv", ["x", "w0", "b0"], ["c0"], name="first"),
            act("c0", 0),
            node("Conv", ["a0", "w1", "b1"], ["c1"], name="depth", group=16, pads=[pads] * 4),
            act("c1", 1),
            node("Conv", ["a1", "w2", "b2"], ["c2"], name="grouped", group=4),
            act("c2", 2),
            node("Conv", ["a2", "w3", "b3"], ["c3"], name="point"),
            node("Relu", ["c3"], ["a3"], name="act3"),
            node("GlobalAveragePool", ["a3"], ["p"], name="pool"),
            node("Flatten", ["p"], ["f"], name="flat"),
            node("Gemm", ["f", "w4", "b4"], ["y"], name="head", transB=1),
        ],
        constants,
        inputs={"x": ("n", 3, 9, 9)},
        outputs={"y": ("n", 5)},
    )
    return prepare(small.proto_of(model))


ACTIVATIONS: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
    ("Relu", (), {}),
    ("LeakyRelu", (), {"alpha": 0.2}),
    ("PRelu", ("slope",), {}),
    ("Clip", ("zero", "six"), {}),
    ("Clip", ("low", "six"), {}),
    ("Identity", (), {}),
]


@pytest.mark.parametrize(("activation", "extra", "attributes"), ACTIVATIONS)
def test_the_function_stays_to_rounding(
    tmp_path: Path, activation: str, extra: tuple[str, ...], attributes: dict[str, Any]
) -> None:
    proto = chain(tmp_path, activation, *extra, **attributes)
    assert len(find_pairs(GraphView(proto))) == 4
    result = equalise(proto)
    onnx.checker.check_model(result, full_check=True)
    arrays = {"x": floats(8, 3, 9, 9, seed=20) * 5}
    before, after = Runner(proto).run(arrays)["y"], Runner(result).run(arrays)["y"]
    assert relative_error(before, after) < 2e-6


def test_both_sides_of_a_pair_end_equally_wide(tmp_path: Path) -> None:
    proto = equalise(chain(tmp_path, "Relu"))
    weights = {
        entry.name: onnx.numpy_helper.to_array(GraphView(proto).initializers[entry.input[1]])
        for entry in proto.graph.node
        if entry.op_type in ("Conv", "Gemm")
    }
    first = np.abs(weights["first"]).max(axis=(1, 2, 3))
    depth = np.abs(weights["depth"]).max(axis=(1, 2, 3))
    grouped = np.abs(weights["grouped"].reshape(4, 2, 4)).max(axis=1).reshape(-1)
    np.testing.assert_allclose(first, depth, rtol=1e-2)
    np.testing.assert_allclose(depth, grouped, rtol=1e-2)
    assert first.max() / first.min() < 20 < np.logspace(-2, 1, 2)[-1] / 1e-2


def test_what_would_change_the_function_is_left_alone(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="one"),
        node("Sigmoid", ["c"], ["s"], name="curved"),
        node("Conv", ["s", "v"], ["d"], name="two"),
        node("Relu", ["d"], ["r"], name="relu"),
        node("Conv", ["r", "v"], ["e"], name="three"),  # shares its weight with two
        node("Relu", ["e"], ["f"], name="relu2"),
        node("Conv", ["f", "u"], ["g"], name="four"),
        node("Add", ["f", "g"], ["y"], name="skip"),
    ]
    weights = {name: floats(3, 3, 1, 1, seed=i) for i, name in enumerate("wvu")}
    model = small.seal(tmp_path, nodes, weights, inputs={"x": ("n", 3, 4, 4)}, outputs={"y": None})
    assert find_pairs(GraphView(prepare(small.proto_of(model)))) == []


def test_a_product_over_positions_is_no_product_over_channels(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="channels"),
        node("Reshape", ["c", "shape"], ["tokens"], name="positions"),
        node("MatMul", ["tokens", "m"], ["y"], name="mix"),
    ]
    constants = {"w": floats(16, 3, 1, 1), "shape": np.array([0, 16, 16]), "m": floats(16, 16)}
    model = small.seal(
        tmp_path, nodes, constants, inputs={"x": ("n", 3, 4, 4)}, outputs={"y": None}
    )
    assert find_pairs(GraphView(prepare(small.proto_of(model)))) == []


def test_absorbed_biases_keep_every_observed_number(tmp_path: Path) -> None:
    proto = chain(tmp_path, "Relu")
    for tensor in proto.graph.initializer:
        if tensor.name == "b1":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(16, 300, np.float32), "b1"))
    view = GraphView(proto)
    names = [pair.first.name for pair in absorbable(view)]
    assert names == ["depth", "grouped"]  # what the padded depthwise reads stays
    arrays = {"x": floats(8, 3, 9, 9, seed=20)}
    tensors = [pair.first.raw_output for pair in absorbable(view)]
    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    shown.graph.output.extend(onnx.helper.make_tensor_value_info(t, 1, None) for t in tensors)
    found = Runner(shown).run(arrays)
    lows = {t: found[t].min(axis=(0, 2, 3)) for t in tensors}
    assert lows["c1"].min() > 0
    result = absorb(proto, lows)
    assert relative_error(Runner(proto).run(arrays)["y"], Runner(result).run(arrays)["y"]) < 1e-4
    biases = {t.name: onnx.numpy_helper.to_array(t) for t in result.graph.initializer}
    assert np.all(biases["depth:absorbed_bias"] < 300 - lows["c1"] + 1e-3)
