from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

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


def kernels(model: Model, folder: Path, level: str = "EXTENDED") -> dict[str, list[str]]:
    """What ONNX Runtime runs, by kind: the names of the nodes of its optimised graph."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = getattr(levels, f"ORT_ENABLE_{level}")
    onnxruntime.InferenceSession(model.forms["onnx"], options, ["CPUExecutionProvider"])
    found: dict[str, list[str]] = {}
    for entry in onnx.load(folder / "optimised.onnx").graph.node:
        found.setdefault(entry.op_type, []).append(entry.name)
    return found


def dequantised_weights(folder: Path) -> list[str]:
    """DequantizeLinear of constants in the graph that `kernels` wrote: done in every call."""
    graph = onnx.load(folder / "optimised.onnx").graph
    constants = {entry.name for entry in graph.initializer}
    found = [entry for entry in graph.node if entry.op_type == "DequantizeLinear"]
    return [entry.name for entry in found if entry.input[0] in constants]


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


def recommender(folder: Path) -> Model:
    """Two embeddings of the same row, their product beside a tower; a head over both."""
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
        "users": floats(40, 8, seed=1),
        "items": floats(40, 8, seed=2),
        "w1": floats(16, 12, seed=3),
        "b1": floats(12, seed=4),
        "w2": floats(12, 8, seed=5),
        "b2": floats(8, seed=6),
        "w3": floats(16, 2, seed=7),
        "b3": floats(2, seed=8),
    }
    constants["users"][39] *= 4  # a row that no calibration row asks for
    return small.seal(folder, nodes, constants, inputs={"x": ("n", 40)}, outputs={"y": ("n", 2)})


def rows_of(numbers: list[int]) -> dict[str, np.ndarray]:
    return {"x": np.eye(40, dtype=np.float32)[numbers]}


def test_tables_and_what_lies_between_run_in_integers(tmp_path: Path) -> None:
    model = recommender(tmp_path / "in")
    data = {"calibrate": small.read(rows_of(list(range(39))), model.signature)}
    result = small.apply(StaticINT8(), model, tmp_path / "out", data=data)
    found = {kind: len(names) for kind, names in kernels(result, tmp_path).items()}
    assert found == {"ArgMax": 1, "Gather": 2, "QLinearMul": 1, "QLinearConcat": 2, "QGemm": 3}
    stored = {entry.name: entry.data_type for entry in small.proto_of(result).graph.initializer}
    assert onnx.TensorProto.FLOAT not in {
        kind for name, kind in stored.items() if not name.endswith(":scale")
    }
    before, after = (small.run(it, rows_of([1, 7, 20]))["y"] for it in (model, result))
    assert relative_error(before, after) < 0.2
    quiet_telemetry()
    openvino = pytest.importorskip("openvino")
    network = openvino.convert_model(result.forms["onnx"])
    compiled = openvino.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert relative_error(after, compiled(rows_of([1, 7, 20]))["y"]) < 0.05


def test_rows_that_calibration_never_asks_for_are_stored_as_well(tmp_path: Path) -> None:
    model = recommender(tmp_path / "in")
    data = {"calibrate": small.read(rows_of(list(range(39))), model.signature)}
    result = small.apply(StaticINT8(), model, tmp_path / "out", data=data, calibrator="minmax")
    before, after = (
        {entry.name: numpy_helper.to_array(entry) for entry in small.proto_of(it).graph.initializer}
        for it in (model, result)
    )
    zero, step = (after[f"users:{name}"].astype(np.float64) for name in ("zero_point", "scale"))
    real = (after["users:quantised"] - zero) * step
    assert np.abs(real - before["users"]).max() < 0.51 * step


def test_narrow_reach_leaves_tables_in_float(tmp_path: Path) -> None:
    model = recommender(tmp_path / "in")
    choices = {c.name: c.values for c in StaticINT8().space(model, small.target()).choices}
    assert choices["reach"] == ("wide", "narrow")
    data = {"calibrate": small.read(rows_of(list(range(39))), model.signature)}
    result = small.apply(StaticINT8(), model, tmp_path / "out", data=data, reach="narrow")
    found = kernels(result, tmp_path)
    assert len(found["QGemm"]) == 3
    assert not {"QLinearMul", "QLinearConcat"} & set(found)
    assert not dequantised_weights(tmp_path)


def test_sums_with_a_relu_run_in_integers(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w1"], ["c1"], name="a", pads=[1] * 4),
        node("Relu", ["c1"], ["r1"], name="relu1"),
        node("Conv", ["r1", "w2"], ["c2"], name="b", pads=[1] * 4),
        node("Add", ["c2", "r1"], ["s"], name="sum"),
        node("Relu", ["s"], ["r2"], name="relu2"),
        node("Mul", ["r2", "half"], ["h"], name="halved"),
        node("GlobalAveragePool", ["h"], ["p"], name="pool"),
        node("Flatten", ["p"], ["f"], name="flatten"),
        node("Gemm", ["f", "w3"], ["y"], name="head"),
    ]
    constants = {
        f"w{i}": floats(*shape, seed=i)
        for i, shape in enumerate([(8, 3, 3, 3), (8, 8, 3, 3), (8, 5)], start=1)
    }
    constants["half"] = np.float32(-0.5)
    model = small.seal(
        tmp_path / "in", nodes, constants, inputs={"x": ("n", 3, 8, 8)}, outputs={"y": ("n", 5)}
    )
    result = quantised(model, tmp_path / "out")
    found = kernels(result, tmp_path)
    for kind in ("QLinearAdd", "QLinearMul", "QLinearGlobalAveragePool"):
        assert len(found[kind]) == 1
    assert not {"Add", "Mul", "Relu", "DequantizeLinear"} & set(found)
    arrays = {"x": floats(4, 3, 8, 8, seed=5)}
    assert relative_error(small.run(model, arrays)["y"], small.run(result, arrays)["y"]) < 0.1
    found = kernels(quantised(model, tmp_path / "narrow", reach="narrow"), tmp_path)
    assert len(found["Add"]) == len(found["Relu"]) == 1


def test_a_batch_norm_behind_a_relu_runs_in_integers(tmp_path: Path) -> None:
    one = np.ones(8, np.float32)
    nodes = [
        node("Conv", ["x", "w1"], ["c1"], name="a", pads=[1] * 4),
        node("Relu", ["c1"], ["r1"], name="relu"),
        node("BatchNormalization", ["r1", "scale", "one", "one", "one"], ["n1"], name="norm"),
        node("MaxPool", ["n1"], ["p1"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p1", "w2"], ["c2"], name="b", pads=[1] * 4),
        node("Sigmoid", ["c2"], ["y"], name="sigmoid"),
    ]
    constants = {"w1": floats(8, 3, 3, 3, seed=1), "w2": floats(4, 8, 3, 3, seed=2), "one": one}
    constants["scale"] = np.abs(floats(8, seed=3))
    model = small.seal(
        tmp_path / "in", nodes, constants, inputs={"x": ("n", 3, 8, 8)}, outputs={"y": None}
    )
    result = quantised(model, tmp_path / "out")
    found = kernels(result, tmp_path, "ALL")
    assert len(found["QLinearConv"]) == 2
    assert len(found["QLinearAdd"]) == 1
    assert len(found["NhwcMaxPool"]) == 1  # channels last, which is many times as fast
    assert not {"BatchNormalization", "MaxPool", "Add", "Relu"} & set(found)
    arrays = {"x": floats(4, 3, 8, 8, seed=5)}
    assert relative_error(small.run(model, arrays)["y"], small.run(result, arrays)["y"]) < 0.1


@pytest.mark.parametrize("reach", ["narrow", "wide"])
def test_a_join_of_rectified_and_other_values_leaves_no_layer_in_float(
    tmp_path: Path, reach: str
) -> None:
    nodes = [
        node("Conv", ["x", "w1"], ["c1"], name="a"),
        node("Relu", ["c1"], ["r1"], name="relu"),
        node("Conv", ["x", "w2"], ["c2"], name="b"),
        node("Concat", ["r1", "c2"], ["j"], name="join", axis=1),
        node("Conv", ["j", "w3"], ["c3"], name="c"),
        node("Sigmoid", ["c3"], ["y"], name="sigmoid"),
    ]
    constants = {
        "w1": floats(4, 3, 1, 1, seed=1),
        "w2": floats(4, 3, 1, 1, seed=2),
        "w3": floats(4, 8, 1, 1, seed=3),
    }
    model = small.seal(
        tmp_path / "in", nodes, constants, inputs={"x": ("n", 3, 4, 4)}, outputs={"y": None}
    )
    found = kernels(quantised(model, tmp_path / "out", reach=reach), tmp_path)
    assert len(found["QLinearConv"]) == 3
    assert len(found["QLinearConcat"]) == 1
    assert not dequantised_weights(tmp_path)


def test_products_before_a_bias_or_a_last_relu_run_in_integers(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", ["x", "w1"], ["p1"], name="hidden"),
        node("Add", ["p1", "b1"], ["h"], name="bias"),
        node("Tanh", ["h"], ["t"], name="tanh"),
        node("Gemm", ["t", "w2", "b2"], ["g"], name="last"),
        node("Relu", ["g"], ["y"], name="relu"),
    ]
    constants = {
        "w1": floats(16, 32, seed=1) / 4,
        "b1": floats(1, 32, seed=2),
        "w2": floats(32, 8, seed=3) / 4,
        "b2": floats(8, seed=4),
    }
    model = small.seal(
        tmp_path / "in", nodes, constants, inputs={"x": ("n", 16)}, outputs={"y": ("n", 8)}
    )
    result = quantised(model, tmp_path / "out")
    found = kernels(result, tmp_path)
    assert len(found["QGemm"]) == 2
    assert not {"Gemm", "FusedGemm", "MatMul"} & set(found)
    assert not dequantised_weights(tmp_path)
    arrays = {"x": floats(8, 16, seed=5)}
    assert relative_error(small.run(model, arrays)["y"], small.run(result, arrays)["y"]) < 0.05
