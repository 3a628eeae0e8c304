from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from strop.techniques.folding import prepare
from strop.techniques.onnx_view import GraphView
from strop.techniques.qdq import quantise_weight, weight_scales
from strop.techniques.quantisable import Layer, find_layers
from strop.techniques.rounding import Patches, compensated, moments_of

from . import small_graphs as small
from .small_graphs import floats, node


def test_patches_are_what_the_weights_meet(tmp_path: Path) -> None:
    attributes = {"strides": [2, 1], "pads": [1, 0, 1, 2], "dilations": [1, 2], "group": 2}
    model = small.seal(
        tmp_path,
        [
            node("Conv", ["x", "w"], ["c"], name="a", **attributes),
            node("Relu", ["c"], ["y"], name="relu"),
        ],
        {"w": floats(6, 2, 3, 2, seed=1)},
        inputs={"x": ("n", 4, 9, 8)},
        outputs={"y": None},
    )
    view = GraphView(prepare(small.proto_of(model)))
    (layer,) = find_layers(view)
    weight = view.constant("w")
    assert weight is not None
    patches = Patches.of_layer(layer, view.nodes["a"], weight)
    assert patches is not None
    x = floats(2, 4, 9, 8, seed=2)
    cut = patches.of(x)
    outputs = np.einsum("gpf,gof->pgo", cut, weight.reshape(2, 3, -1)).reshape(-1, 6)
    expected = small.run(model, {"x": x})["y"].transpose(0, 2, 3, 1).reshape(-1, 6)
    np.testing.assert_allclose(np.maximum(outputs, 0), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("groups", "axis"), [(1, 0), (4, 0), (1, 1)])
def test_compensated_rounding_changes_the_output_less(groups: int, axis: int) -> None:
    rng = np.random.default_rng(0)
    fan_in, outputs = 24, 16
    mixing = rng.standard_normal((groups, fan_in, fan_in)) * np.logspace(0, -2, fan_in)
    covariance = mixing @ mixing.transpose(0, 2, 1)
    weight = floats(outputs, fan_in, seed=1)
    weight = weight if axis == 0 else weight.T.copy()
    layer = Layer("a", "Gemm", "x", "w", None, "y", "y", axis, groups)
    scales = weight_scales(weight, axis, bits=4)
    along = [-1 if i == axis else 1 for i in range(2)]

    def loss(stored: np.ndarray) -> float:
        change = np.moveaxis(stored * scales.reshape(along) - weight, axis, 0)
        rows = change.reshape(groups, -1, fan_in)
        return float(np.einsum("goi,gij,goj->", rows, covariance, rows))

    nearest = quantise_weight(weight, scales, axis, bits=4)
    better = compensated(weight, scales, layer, covariance, bits=4)
    assert better.dtype == np.int8
    assert better.shape == weight.shape
    assert np.abs(better).max() <= 7
    assert loss(better) < 0.6 * loss(nearest)


def test_white_inputs_round_to_nearest() -> None:
    weight = floats(8, 12)
    layer = Layer("a", "Gemm", "x", "w", None, "y", "y", 0)
    scales = weight_scales(weight, 0)
    stored = compensated(weight, scales, layer, np.eye(12)[None])
    assert np.array_equal(stored, quantise_weight(weight, scales, 0))


def test_covariance_is_that_of_the_data(tmp_path: Path) -> None:
    proto = prepare(small.proto_of(small.mlp(tmp_path)))
    layers = find_layers(GraphView(proto))
    x = floats(60, 64, seed=3) + 2
    found = moments_of(proto, layers, lambda: [{"x": x[:40]}, {"x": x[40:]}])
    np.testing.assert_allclose(
        found["hidden"][0], np.cov(x.T.astype(np.float64), bias=True), atol=1e-5
    )
    assert found["out"].shape == (1, 128, 128)
