from __future__ import annotations

from pathlib import Path

import numpy as np

from strop.models.runner import Runner
from strop.techniques.bias_correction import bias_shifts
from strop.techniques.folding import prepare
from strop.techniques.onnx_view import GraphView
from strop.techniques.qdq import round_weights, write_qdq
from strop.techniques.quantisable import plan

from . import small_graphs as small
from .small_graphs import floats, node


def test_the_mean_error_of_every_channel_goes(tmp_path: Path) -> None:
    model = small.seal(
        tmp_path,
        [
            node("Conv", ["x", "w"], ["c"], name="conv", pads=[1] * 4),
            node("Relu", ["c"], ["r"], name="relu"),
            node("GlobalAveragePool", ["r"], ["p"], name="pool"),
            node("Flatten", ["p"], ["f"], name="flatten"),
            node("Gemm", ["f", "w2", "b2"], ["y"], name="head"),
        ],
        {"w": floats(16, 3, 3, 3, seed=1), "w2": floats(16, 7, seed=2), "b2": floats(7, seed=3)},
        inputs={"x": ("n", 3, 8, 8)},
        outputs={"y": ("n", 7)},
    )
    proto = prepare(small.proto_of(model))
    chosen = plan(GraphView(proto))
    x = floats(64, 3, 8, 8, seed=4) + 1.5  # a mean for the rounded weights to shift
    ranges = {"x": (-4.0, 6.0), "r": (0.0, 30.0), "p": (0.0, 12.0), "f": (0.0, 12.0)}
    weights = round_weights(proto, chosen, ranges, bits=4)
    shifts = bias_shifts(proto, chosen, ranges, weights, lambda: [{"x": x[:40]}, {"x": x[40:]}])
    assert {name: shift.shape for name, shift in shifts.items()} == {"conv": (16,), "head": (7,)}

    expected = Runner(proto).run({"x": x})["y"]
    plain = Runner(write_qdq(proto, chosen, ranges, weights)).run({"x": x})["y"]
    corrected = write_qdq(proto, chosen, ranges, weights, bias_shift=shifts)
    fixed = Runner(corrected).run({"x": x})["y"]
    before = np.abs((plain - expected).mean(0)).mean()
    after = np.abs((fixed - expected).mean(0)).mean()
    assert before > 0.05
    assert after < 0.25 * before


def test_a_shift_is_the_mean_over_all_rows_and_positions(tmp_path: Path) -> None:
    proto = prepare(small.proto_of(small.conv_net(tmp_path)))
    chosen = plan(GraphView(proto))
    ranges = dict.fromkeys(chosen.tensors, (-6.0, 6.0))
    weights = round_weights(proto, chosen, ranges, bits=4)
    x = floats(10, 3, 8, 8)
    whole = bias_shifts(proto, chosen, ranges, weights, lambda: [{"image": x}])
    parts = bias_shifts(
        proto, chosen, ranges, weights, lambda: [{"image": x[:1]}, {"image": x[1:]}]
    )
    for name in whole:
        np.testing.assert_allclose(whole[name], parts[name], atol=1e-5)
    assert np.abs(whole["first"]).max() > 1e-3
