from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from strop.engines import quiet_telemetry
from strop.errors import NotApplicable
from strop.models import Model, relative_error
from strop.models.model import Model as SealedModel
from strop.techniques import int8_static
from strop.techniques.int8_static import StaticINT8

from . import small_graphs as small
from .small_graphs import floats, node


def deep_net(folder: Path) -> Model:
    """stem, a depthwise-pointwise residual block with Clip, a pool and a classifier."""
    nodes = [
        node("Conv", ["image", "w0", "b0"], ["c0"], name="stem", pads=[1] * 4),
        node("Clip", ["c0", "zero", "six"], ["r0"], name="clip0"),
        node("Conv", ["r0", "w1", "b1"], ["c1"], name="depthwise", pads=[1] * 4, group=16),
        node("Clip", ["c1", "zero", "six"], ["r1"], name="clip1"),
        node("Conv", ["r1", "w2", "b2"], ["c2"], name="pointwise"),
        node("Add", ["c2", "r0"], ["s"], name="sum"),
        node("Conv", ["s", "w3", "b3"], ["c3"], name="last"),
        node("Relu", ["c3"], ["r3"], name="relu"),
        node("GlobalAveragePool", ["r3"], ["p"], name="pool"),
        node("Flatten", ["p"], ["f"], name="flatten"),
        node("Gemm", ["f", "w4", "b4"], ["logits"], name="head", transB=1),
    ]
    constants: dict[str, Any] = {
        "w0": floats(16, 3, 3, 3, seed=1) / 3,
        "w1": floats(16, 1, 3, 3, seed=2) * np.logspace(-2, 0.5, 16)[:, None, None, None],
        "w2": floats(16, 16, 1, 1, seed=3) / 4,
        "w3": floats(32, 16, 1, 1, seed=4) / 4,
        "w4": floats(10, 32, seed=5),
        "zero": 0.0,
        "six": 6.0,
    }
    constants["w1"] = constants["w1"].astype(np.float32)
    biases = {f"b{i}": floats(n, seed=10 + i) for i, n in enumerate((16, 16, 16, 32, 10))}
    return small.seal(
        folder,
        nodes,
        constants | biases,
        inputs={"image": ("n", 3, 12, 12)},
        outputs={"logits": ("n", 10)},
    )


def quantised(model: Model, folder: Path, rows: int = 24, **params: Any) -> Model:
    data = {"calibrate": small.dataset(model, rows)}
    return small.apply(StaticINT8(), model, folder, data=data, **params)


def kernels(model: Model, folder: Path) -> dict[str, list[str]]:
    """What ONNX Runtime runs, by kind: the names of the nodes of its optimised graph."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(model.forms["onnx"], options, ["CPUExecutionProvider"])
    found: dict[str, list[str]] = {}
    for entry in onnx.load(folder / "optimised.onnx").graph.node:
        found.setdefault(entry.op_type, []).append(entry.name)
    return found


def openvino_precisions(model: Model) -> Counter[tuple[str, str]]:
    quiet_telemetry()
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(model.forms["onnx"], "CPU", options)
    info = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    return Counter(
        (entry["layerType"].astype(str), entry["runtimePrecision"].astype(str)) for entry in info
    )


def test_the_function_stays_and_the_border_with_it(tmp_path: Path) -> None:
    model = deep_net(tmp_path / "in")
    result = quantised(model, tmp_path / "out")
    assert result.signature == model.signature
    assert list(result.forms) == ["onnx"]
    assert SealedModel.open(result.path).digest == result.digest
    arrays = {"image": floats(16, 3, 12, 12, seed=3)}
    before, after = small.run(model, arrays)["logits"], small.run(result, arrays)["logits"]
    assert 1e-5 < relative_error(before, after) < 0.1
    assert result.meta["quantised"] is True
    assert result.meta["producer"] == "test"
    onnx.checker.check_model(onnx.load(result.forms["onnx"]), full_check=True)


def test_onnx_runtime_runs_all_of_it_in_integers(tmp_path: Path) -> None:
    found = kernels(quantised(deep_net(tmp_path / "in"), tmp_path / "out"), tmp_path)
    assert len(found["QLinearConv"]) == 4
    assert len(found["QLinearAdd"]) == 1
    assert len(found["QGemm"]) == 1
    assert len(found["QuantizeLinear"]) == 1  # the input's
    assert not {"Conv", "FusedConv", "Gemm", "Add", "Clip", "Relu"} & set(found)


def test_openvino_runs_it_in_integers(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    found = openvino_precisions(quantised(deep_net(tmp_path / "in"), tmp_path / "out"))
    assert sum(n for (kind, kept), n in found.items() if kind == "Convolution") == 4
    assert {kept for kind, kept in found if kind in ("Convolution", "FullyConnected")} <= {
        "u8",
        "i8",
    }


def test_both_runtimes_compute_the_same(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    result = quantised(deep_net(tmp_path / "in"), tmp_path / "out")
    quiet_telemetry()
    import openvino

    arrays = {"image": floats(8, 3, 12, 12, seed=3)}
    network = openvino.convert_model(result.forms["onnx"])
    compiled = openvino.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    # Where ONNX Runtime rounds before a residual addition, OpenVINO fuses it into the convolution.
    assert relative_error(small.run(result, arrays)["logits"], compiled(arrays)["logits"]) < 0.05


def test_layers_kept_float_are_float_in_both_runtimes(tmp_path: Path) -> None:
    result = quantised(deep_net(tmp_path / "in"), tmp_path / "out", keep_float=0.4)
    kept = result.meta["float_layers"]
    assert len(kept) == 2
    assert sorted([*kept, *result.meta["int8_layers"]]) == sorted(
        ["stem", "depthwise", "pointwise", "last", "head"]
    )
    found = kernels(result, tmp_path)
    floating = found.get("Conv", []) + found.get("FusedConv", []) + found.get("Gemm", [])
    assert sorted(name for name in floating if name in kept) == sorted(kept)
    integer = found["QLinearConv"] + found.get("QGemm", [])
    assert not set(kept) & set(integer)
    proto = small.proto_of(result)
    stored = {entry.name: entry.data_type for entry in proto.graph.initializer}
    for entry in proto.graph.node:
        if entry.name in kept:
            assert stored[entry.input[1]] == onnx.TensorProto.FLOAT
    pytest.importorskip("openvino")
    precisions = openvino_precisions(result)
    layers = {(kind, kept): n for (kind, kept), n in precisions.items() if kind != "Const"}
    assert sum(
        n
        for (kind, precision), n in layers.items()
        if kind in ("Convolution", "FullyConnected") and precision == "f32"
    ) == len(kept)


def test_more_float_layers_lose_less(tmp_path: Path) -> None:
    model = deep_net(tmp_path / "in")
    arrays = {"image": floats(32, 3, 12, 12, seed=3)}
    before = small.run(model, arrays)["logits"]
    errors = [
        relative_error(
            before, small.run(quantised(model, tmp_path / str(k), keep_float=k), arrays)["logits"]
        )
        for k in (0.0, 0.4, 0.8)
    ]
    assert errors[2] < errors[0]
    assert errors[1] < 1.05 * errors[0]


def test_equal_runs_give_equal_files_and_a_seed_chooses_rows(tmp_path: Path) -> None:
    model = deep_net(tmp_path / "in")
    results = []
    for name in ("a", "b"):  # apart, so that neither finds what the other has computed
        int8_static._recent.clear()
        (tmp_path / name).mkdir()
        results.append(quantised(model, tmp_path / name / "m", keep_float=0.2))
    first, second = results
    assert first.digest == second.digest
    calibration = first.meta["calibration"]
    assert sorted(calibration["rows"]) == list(range(24))
    assert calibration["rows"] != list(range(24))
    assert calibration == second.meta["calibration"]
    assert len(calibration["digest"]) == 64


@pytest.mark.parametrize(
    "params",
    [
        {"calibrator": "percentile"},
        {"calibrator": "minmax", "rounding": "nearest", "bias_correction": False},
        {"keep_float": 0.2, "rank": "error-per-microsecond"},
        {"calibrator": "entropy"},
        {"rounding": "adaround", "keep_float": 0.1},
        {"equalise": "scale"},
        {"equalise": "absorb", "rounding": "nearest"},
    ],
)
def test_every_parameter_gives_a_sound_model(tmp_path: Path, params: dict[str, Any]) -> None:
    model = deep_net(tmp_path / "in")
    result = quantised(model, tmp_path / "out", **params)
    arrays = {"image": floats(16, 3, 12, 12, seed=3)}
    before, after = small.run(model, arrays)["logits"], small.run(result, arrays)["logits"]
    assert relative_error(before, after) < 0.2


def test_weights_have_seven_bits_without_vnni(tmp_path: Path) -> None:
    from strop.techniques import Context

    model = deep_net(tmp_path / "in")
    technique = StaticINT8()
    for isa, greatest in (("avx2", 63), ("avx512_vnni", 127)):
        target = small.target(isa)
        folder = tmp_path / isa
        folder.mkdir()
        data = {"calibrate": small.dataset(model, 8)}
        ctx = Context(workdir=folder, target=target, data=data)
        result = technique.apply(model, technique.space(model, target).default, ctx)
        stored = [
            onnx.numpy_helper.to_array(entry)
            for entry in small.proto_of(result).graph.initializer
            if entry.data_type == onnx.TensorProto.INT8 and len(entry.dims) > 1
        ]
        assert len(stored) == 5
        assert max(np.abs(value.astype(int)).max() for value in stored) == greatest


def test_a_fixed_batch_is_calibrated_in_its_own_size(tmp_path: Path) -> None:
    model = small.conv_net(tmp_path / "in", batch=5)
    result = quantised(model, tmp_path / "out", rows=12)
    assert len(result.meta["calibration"]["rows"]) == 10
    assert len(quantised(model, tmp_path / "kept", keep_float=0.4).meta["float_layers"]) == 1
    with pytest.raises(NotApplicable, match="fixed batch of 5"):
        quantised(model, tmp_path / "few", rows=3)


def test_it_says_why_it_does_not_apply(tmp_path: Path) -> None:
    technique, goal = StaticINT8(), small.target("avx2")
    model = deep_net(tmp_path / "in")
    assert technique.applies(model, goal)
    assert "CPU only" in technique.applies(model, small.target(device="cuda")).reason
    again = technique.applies(quantised(model, tmp_path / "out"), goal)
    assert again.reason == "already quantised"
    empty = small.seal(
        tmp_path / "empty",
        [node("Relu", ["x"], ["y"])],
        {},
        inputs={"x": ("n", 4)},
        outputs={"y": ("n", 4)},
    )
    assert "no float32 convolution" in technique.applies(empty, goal).reason
    assert technique.space(model, goal).default["smooth"] == 0.0


def test_rare_settings_are_tried_alone(tmp_path: Path) -> None:
    technique, goal = StaticINT8(), small.target("avx512_vnni")
    plain = technique.space(small.conv_net(tmp_path / "relu"), goal)
    clipped = technique.space(deep_net(tmp_path / "clip"), goal)
    assert plain.default["equalise"] == clipped.default["equalise"] == "none"
    assert {entry["equalise"] for entry in plain.grid()} == {"none", "scale"}
    assert {entry["equalise"] for entry in clipped.grid()} == {"none"}
    rare = {"calibrator": "entropy", "rounding": "adaround", "equalise": "scale"}
    kept = [entry for entry in plain.grid() if technique.follows((), entry)]
    assert plain.default in kept
    assert len(kept) < len(list(plain.grid())) / 2
    for entry in kept:
        changed = [name for name, value in rare.items() if entry[name] == value]
        assert len(changed) <= 1
        assert not changed or (entry["keep_float"] <= 0.1 and entry["calibrator"] != "minmax")
    assert all(any(entry[name] == value for entry in kept) for name, value in rare.items())
