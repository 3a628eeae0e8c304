from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from strop.models import Model
from strop.models.runner import Runner
from strop.techniques.folding import prepare
from strop.techniques.onnx_view import GraphView
from strop.techniques.qdq import affine, quantise_weight, round_weights, weight_scales, write_qdq
from strop.techniques.quantisable import plan

from . import small_graphs as small
from .small_graphs import floats, node


def rounded(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """What uint8 keeps of `values`, in float64."""
    scale, zero = affine(low, high)
    steps = np.clip(np.round(values / np.float64(scale)) + int(zero), 0, 255) - int(zero)
    return np.asarray(steps * np.float64(scale))


def initializer(proto: onnx.ModelProto, name: str) -> np.ndarray:
    (found,) = (entry for entry in proto.graph.initializer if entry.name == name)
    return np.asarray(numpy_helper.to_array(found))


def two_convolutions(folder: Path, **attributes: object) -> Model:
    return small.seal(
        folder,
        [
            node("Conv", ["x", "w", "b"], ["c"], name="a", **attributes),
            node("Relu", ["c"], ["r"], name="relu"),
            node("Conv", ["r", "w2"], ["y"], name="z"),
        ],
        {"w": floats(4, 3, 3, 3, seed=1), "b": floats(4, seed=2), "w2": floats(2, 4, 1, 1, seed=3)},
        inputs={"x": ("n", 3, 6, 6)},
        outputs={"y": ("n", 2, None, None)},
    )


def test_scales_are_exact_and_zero_is_exact() -> None:
    weight = floats(5, 3, 3, 3)
    weight[2] = 0
    scales = weight_scales(weight, 0)
    expected = np.abs(weight).reshape(5, -1).max(1) / np.float32(127)
    expected[2] = 1
    assert np.array_equal(scales, expected)
    stored = quantise_weight(weight, scales, 0)
    assert stored.dtype == np.int8
    assert np.array_equal(np.abs(stored.astype(int)).reshape(5, -1).max(1), [127, 127, 0, 127, 127])
    assert np.abs(quantise_weight(weight, weight_scales(weight, 0, bits=7), 0)).max() == 63
    scale, zero = affine(-0.37, 1.91)
    assert float(scale) == pytest.approx(2.28 / 255, rel=1e-6)
    assert zero == round(0.37 / (2.28 / 255))
    assert affine(0.0, 0.0) == (1.0, 0)
    assert affine(2.0, 3.0).zero_point == 0


def test_a_convolution_equals_its_float64_reference(tmp_path: Path) -> None:
    model = two_convolutions(tmp_path)
    proto = prepare(small.proto_of(model))
    view = GraphView(proto)
    chosen = plan(view)
    assert [layer.name for layer in chosen.layers] == ["a"]  # 'z' writes an output
    ranges = {"x": (-2.0, 2.5), "r": (0.0, 4.0)}
    weights = round_weights(proto, chosen, ranges)
    result = write_qdq(proto, chosen, ranges, weights)
    onnx.checker.check_model(result)

    x = floats(2, 3, 6, 6, seed=5)
    w, b, w2 = (initializer(proto, name).astype(np.float64) for name in ("w", "b", "w2"))
    scales = np.abs(w).reshape(4, -1).max(1) / 127
    w = np.round(w / scales[:, None, None, None]) * scales[:, None, None, None]
    product = scales * (4.5 / 255)
    b = np.round(b / product) * product
    windows = np.lib.stride_tricks.sliding_window_view(rounded(x, -2.0, 2.5), (3, 3), axis=(2, 3))
    c = np.einsum("nchwij,ocij->nohw", windows, w) + b[:, None, None]
    r = rounded(np.maximum(c, 0), 0.0, 4.0)
    expected = np.einsum("nchw,oc->nohw", r, w2[:, :, 0, 0])
    actual = Runner(result).run({"x": x})["y"]
    # Sums in another order may round to the neighbouring step, here and there.
    step = 4.0 / 255 * np.abs(w2).sum(1).max()
    assert np.abs(actual - expected).max() <= step
    assert np.mean(np.abs(actual - expected) > 1e-4) < 0.02


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_a_matrix_product_equals_its_float64_reference(tmp_path: Path, op: str) -> None:
    inputs = ["x", "w"] if op == "MatMul" else ["x", "w", "b"]
    constants = {"w": floats(16, 8, seed=1) * np.logspace(-2, 1, 8, dtype=np.float32)}
    constants |= {"b": floats(8, seed=2)} if op == "Gemm" else {}
    model = small.seal(
        tmp_path,
        [node(op, inputs, ["y"], name="layer")],
        constants,
        inputs={"x": ("n", 16)},
        outputs={"y": ("n", 8)},
    )
    proto = prepare(small.proto_of(model))
    chosen = plan(GraphView(proto))
    ranges = {"x": (-3.0, 3.0)}
    result = write_qdq(proto, chosen, ranges, round_weights(proto, chosen, ranges))
    x = floats(5, 16, seed=3)
    w = constants["w"].astype(np.float64)
    scales = np.abs(w).max(0) / 127
    expected = rounded(x, -3.0, 3.0) @ (np.round(w / scales) * scales)
    if op == "Gemm":
        product = scales * (6.0 / 255)
        expected = expected + np.round(constants["b"] / product) * product
    np.testing.assert_allclose(Runner(result).run({"x": x})["y"], expected, rtol=1e-4, atol=1e-4)


def test_tiny_weights_with_a_bias_do_not_overflow(tmp_path: Path) -> None:
    model = small.seal(
        tmp_path,
        [node("Gemm", ["x", "w", "b"], ["y"], name="layer")],
        {"w": np.full((4, 2), 1e-20, np.float32), "b": np.array([3.0, -3.0], np.float32)},
        inputs={"x": ("n", 4)},
        outputs={"y": ("n", 2)},
    )
    proto = prepare(small.proto_of(model))
    chosen = plan(GraphView(proto))
    ranges = {"x": (-1.0, 1.0)}
    result = write_qdq(proto, chosen, ranges, round_weights(proto, chosen, ranges))
    np.testing.assert_allclose(
        Runner(result).run({"x": floats(3, 4)})["y"], [[3.0, -3.0]] * 3, rtol=1e-5
    )


def test_bias_has_the_product_of_the_scales(tmp_path: Path) -> None:
    proto = prepare(small.proto_of(two_convolutions(tmp_path)))
    chosen = plan(GraphView(proto))
    ranges = {"x": (-2.0, 2.5), "r": (0.0, 4.0)}
    weights = round_weights(proto, chosen, ranges)
    result = write_qdq(proto, chosen, ranges, weights, bias_shift={"a": np.full(4, 0.25)})
    product = initializer(result, "x:scale") * initializer(result, "w:scale")
    assert np.array_equal(initializer(result, "b:scale"), product)
    stored = initializer(result, "b:quantised")
    assert stored.dtype == np.int32
    np.testing.assert_allclose(
        stored * product, initializer(proto, "b") + 0.25, atol=float(product.max())
    )
    assert not {"w", "b"} & {entry.name for entry in result.graph.initializer}
