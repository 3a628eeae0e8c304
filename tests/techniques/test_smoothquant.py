from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from strop.models.runner import Runner
from strop.techniques.folding import prepare
from strop.techniques.onnx_view import GraphView
from strop.techniques.smoothquant import find_spots, smooth

from . import small_graphs as small
from .small_graphs import floats, node


def block(folder: Path, *, residual: bool) -> onnx.ModelProto:
    """LayerNorm into two matrix products, and into a residual addition if asked for."""
    nodes = [
        node("LayerNormalization", ["x", "g", "b"], ["h"], name="norm", axis=-1),
        node("MatMul", ["h", "w1"], ["q"], name="query"),
        node("MatMul", ["h", "w2"], ["k"], name="key"),
        node("Add", ["q", "k"], ["s"], name="sum"),
        node("Add", ["s", "h" if residual else "q"], ["y"], name="last"),
    ]
    wide = np.ones(16, np.float32)
    wide[3] = 40
    constants = {"g": wide, "b": floats(16), "w1": floats(16, 16), "w2": floats(16, 16, seed=1)}
    model = small.seal(
        folder, nodes, constants, inputs={"x": ("n", 5, 16)}, outputs={"y": ("n", 5, 16)}
    )
    return prepare(small.proto_of(model))


@pytest.mark.parametrize("residual", [False, True])
def test_channels_even_out_and_the_function_stays(tmp_path: Path, residual: bool) -> None:
    proto = block(tmp_path, residual=residual)
    (spot,) = find_spots(GraphView(proto))
    assert spot.tensor == "h"
    assert [layer.name for layer in spot.readers] == ["query", "key"]
    assert spot.foldable is not residual
    x = {"x": floats(4, 5, 16, seed=7)}
    h = Runner(prepare(_exposed(proto, "h"))).run(x)["h"]
    magnitude = np.abs(h).max((0, 1))
    after = smooth(proto, {"h": magnitude}, 0.5)
    onnx.checker.check_model(after)
    np.testing.assert_allclose(
        Runner(after).run(x)["y"], Runner(proto).run(x)["y"], rtol=1e-4, atol=1e-3
    )
    counts = [entry.op_type for entry in after.graph.node].count("Mul")
    assert counts == (1 if residual else 0)
    data = next(entry for entry in after.graph.node if entry.name == "query").input[0]
    smoothed = np.abs(Runner(_exposed(after, data)).run(x)[data]).max((0, 1))
    assert smoothed.max() / np.median(smoothed) < 0.5 * magnitude.max() / np.median(magnitude)


def test_a_bias_after_a_product_is_no_normalisation(tmp_path: Path) -> None:
    model = small.seal(
        tmp_path,
        [
            node("MatMul", ["x", "w"], ["a"]),
            node("Add", ["a", "b"], ["c"]),
            node("MatMul", ["c", "v"], ["y"]),
        ],
        {"w": floats(4, 4), "b": floats(4), "v": floats(4, 4, seed=1)},
        inputs={"x": ("n", 4)},
        outputs={"y": ("n", 4)},
    )
    assert not find_spots(GraphView(prepare(small.proto_of(model))))


def _exposed(proto: onnx.ModelProto, tensor: str) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    del result.graph.output[:]
    result.graph.output.append(onnx.helper.make_tensor_value_info(tensor, 1, None))
    return result
