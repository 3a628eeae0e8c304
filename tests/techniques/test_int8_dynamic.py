from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from strop.models import graph, relative_error
from strop.techniques.int8_dynamic import DynamicINT8

from . import small_graphs as small
from .small_graphs import node


@pytest.mark.parametrize("per_channel", [True, False])
def test_products_run_in_integers_and_stay_close(tmp_path: Path, per_channel: bool) -> None:
    model = small.mlp(tmp_path / "in")
    result = small.apply(DynamicINT8(), model, tmp_path / "out", per_channel=per_channel)
    assert small.operators(result)["MatMulInteger"] == 2  # a Gemm is quantised as a MatMul
    assert graph.is_quantised(small.proto_of(result))
    assert result.meta["quantised"] is True
    assert result.signature == model.signature == graph.signature(small.proto_of(result))
    arrays = {"x": small.floats(16, 64)}
    before, after = small.run(model, arrays)["y"], small.run(result, arrays)["y"]
    assert 1e-4 < relative_error(before, after) < 0.05
    size, small_size = (m.forms["onnx"].stat().st_size for m in (model, result))
    assert small_size < 0.4 * size
    assert [file.name for file in (result.path / "onnx").iterdir()] == ["model.onnx"]


def test_scales_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    model = small.mlp(tmp_path / "in")
    result = small.apply(DynamicINT8(), model, tmp_path / "out")
    x = small.floats(2, 64)
    x[1] *= 50
    alone = small.run(result, {"x": x[:1]})["y"]
    together = small.run(result, {"x": x})["y"][:1]
    assert relative_error(alone, together) > 0.01
    assert DynamicINT8.batch_invariant is False


def test_reduced_range_keeps_weights_within_seven_bits(tmp_path: Path) -> None:
    model = small.mlp(tmp_path / "in")
    largest = {}
    for reduce_range in (True, False):
        result = small.apply(
            DynamicINT8(), model, tmp_path / f"{reduce_range}", reduce_range=reduce_range
        )
        weights = [w for w in graph.constants(small.proto_of(result)).values() if w.ndim == 2]
        largest[reduce_range] = max(int(np.abs(w.astype(int)).max()) for w in weights)
    assert largest[True] <= 64 < 120 < largest[False]


def test_reduced_range_follows_the_instruction_sets(tmp_path: Path) -> None:
    model = small.mlp(tmp_path / "in")
    for isa, expected in ((("avx2",), True), (("avx2", "avx_vnni"), False), (("neon",), False)):
        default = DynamicINT8().space(model, small.target(*isa)).default
        assert default == {"per_channel": True, "reduce_range": expected}


def test_shapes_that_contradict_the_graph_do_no_harm(tmp_path: Path) -> None:
    model = small.mlp(tmp_path / "in")
    proto = small.proto_of(model)
    del proto.graph.value_info[:]
    wrong = small.onnx.helper.make_tensor_value_info("h", 1, (3, 128, 7))
    proto.graph.value_info.append(wrong)
    graph.write(proto, tmp_path / "wrong" / "onnx" / "model.onnx")
    sealed = type(model).seal(tmp_path / "wrong", model.signature)
    result = small.apply(DynamicINT8(), sealed, tmp_path / "out")
    assert small.operators(result)["MatMulInteger"] == 2


def test_lstm_is_quantised(tmp_path: Path) -> None:
    model = small.seal(
        tmp_path / "in",
        [node("LSTM", ["x", "w", "r"], ["y"], name="lstm", hidden_size=16)],
        {"w": small.floats(1, 64, 8) / 4, "r": small.floats(1, 64, 16, seed=1) / 4},
        inputs={"x": ("steps", "n", 8)},
        outputs={"y": ("steps", 1, "n", 16)},
    )
    assert DynamicINT8().applies(model, small.target())
    result = small.apply(DynamicINT8(), model, tmp_path / "out")
    assert small.operators(result) == {"com.microsoft.DynamicQuantizeLSTM": 1}
    arrays = {"x": small.floats(5, 2, 8)}
    assert relative_error(small.run(model, arrays)["y"], small.run(result, arrays)["y"]) < 0.1


def test_equal_runs_give_equal_files(tmp_path: Path) -> None:
    model = small.mlp(tmp_path / "in")
    first, second = (small.apply(DynamicINT8(), model, tmp_path / name) for name in "ab")
    assert first.digest == second.digest


def test_convolutional_and_quantised_models_do_not_apply(tmp_path: Path) -> None:
    convolutional = DynamicINT8().applies(small.conv_net(tmp_path / "c"), small.target())
    assert not convolutional
    assert "% of the operations" in convolutional.reason
    model = small.mlp(tmp_path / "in")
    assert DynamicINT8().applies(model, small.target())
    assert not DynamicINT8().applies(model, small.target(device="cuda"))
    result = small.apply(DynamicINT8(), model, tmp_path / "out")
    assert DynamicINT8().applies(result, small.target()).reason == "already quantised"
