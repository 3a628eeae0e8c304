from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strop.engines import quiet_telemetry
from strop.errors import NotApplicable
from strop.models import Model, graph, relative_error
from strop.techniques import Context
from strop.techniques.int8_nncf import NNCFINT8, has_attention

from . import small_graphs as small
from .small_graphs import node

pytest.importorskip("nncf")
pytest.importorskip("openvino")


def quantised(model: Model, folder: Path, rows: int = 12, **params: Any) -> Model:
    data = {"calibrate": small.dataset(model, rows)}
    return small.apply(NNCFINT8(), model, folder, data=data, **params)


def compiled(model: Model) -> Any:
    quiet_telemetry()
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    return openvino.Core().compile_model(model.forms["openvino"], "CPU", options)


def test_a_network_runs_in_int8_under_its_own_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small.conv_net(tmp_path / "in")
    result = quantised(model, tmp_path / "out")
    assert list(result.forms) == ["openvino"]
    assert result.signature == model.signature
    assert result.meta["quantised"] is True
    assert result.meta["fake_quantize"] >= 3
    assert result.meta["calibration_rows"] == 12
    network = compiled(result)
    assert network.inputs[0].get_names() == {"image"}
    assert network.outputs[0].get_names() == {"logits"}
    arrays = {"image": small.floats(4, 3, 8, 8)}
    after = network(arrays)["logits"]
    assert 1e-4 < relative_error(small.run(model, arrays)["logits"], after) < 0.25
    assert capsys.readouterr().out == ""
    assert sys.modules["openvino_telemetry"] is None


def test_equal_runs_give_equal_files(tmp_path: Path) -> None:
    model = small.conv_net(tmp_path / "in")
    first, second = (quantised(model, tmp_path / name) for name in "ab")
    assert first.digest == second.digest


def test_a_fixed_batch_is_filled_and_the_rest_left_out(tmp_path: Path) -> None:
    model = small.conv_net(tmp_path / "in", batch=4)
    result = quantised(model, tmp_path / "out", rows=10)
    assert result.meta["calibration_rows"] == 8
    with pytest.raises(NotApplicable, match="fixed batch of 4, but there are 3 rows"):
        quantised(model, tmp_path / "few", rows=3)


def test_the_full_bias_correction_centres_the_error(tmp_path: Path) -> None:
    """On the calibration rows themselves the outputs' mean error shrinks."""
    model = small.conv_net(tmp_path / "in")
    rows = small.dataset(model, 64)
    arrays = rows.inputs()
    expected = small.run(model, arrays)["logits"]
    bias = {}
    for value in ("full", "none"):
        result = quantised(model, tmp_path / value, rows=64, bias_correction=value)
        error = compiled(result)(arrays)["logits"] - expected
        bias[value] = float(np.abs(error.mean(axis=0)).max())
    assert bias["full"] < 0.8 * bias["none"]


def test_calibration_stops_at_the_deadline(tmp_path: Path) -> None:
    model = small.conv_net(tmp_path / "in")
    (tmp_path / "out").mkdir()
    context = Context(
        workdir=tmp_path / "out",
        target=small.target(),
        data={"calibrate": small.dataset(model, 8)},
        deadline=time.monotonic() - 1,
    )
    with pytest.raises(TimeoutError):
        NNCFINT8().apply(model, NNCFINT8().space(model, context.target).default, context)


def attention(folder: Path) -> Model:
    nodes = [
        node("MatMul", ["x", "wq"], ["q"]),
        node("MatMul", ["x", "wk"], ["k"]),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["s"]),
        node("Softmax", ["s"], ["p"]),
        node("MatMul", ["p", "x"], ["a"]),
        node("MatMul", ["a", "wo"], ["y"]),
    ]
    weights = {name: small.floats(16, 16, seed=i) / 4 for i, name in enumerate(("wq", "wk", "wo"))}
    return small.seal(
        folder, nodes, weights, inputs={"x": ("n", 6, 16)}, outputs={"y": ("n", 6, 16)}
    )


def test_attention_is_seen_and_quantised_as_a_transformer(tmp_path: Path) -> None:
    model = attention(tmp_path / "in")
    assert has_attention(small.proto_of(model))
    assert NNCFINT8().space(model, small.target()).default["bias_correction"] == "fast"
    assert not has_attention(small.proto_of(small.conv_net(tmp_path / "conv")))
    result = quantised(model, tmp_path / "out")
    assert result.meta["model_type"] == "transformer"
    arrays = {"x": small.floats(2, 6, 16)}
    assert relative_error(small.run(model, arrays)["y"], compiled(result)(arrays)["y"]) < 0.2


def test_defaults_follow_the_activations_and_the_instruction_sets(tmp_path: Path) -> None:
    plain = small.conv_net(tmp_path / "plain")
    vnni = NNCFINT8().space(plain, small.target("avx512_vnni")).default
    assert vnni == {
        "preset": "performance",
        "bias_correction": "full",
        "overflow_fix": "disable",
    }
    assert NNCFINT8().space(plain, small.target("avx2")).default["overflow_fix"] == "enable"
    proto = small.proto_of(plain)
    next(n for n in proto.graph.node if n.op_type == "Relu").op_type = "Elu"
    graph.write(proto, tmp_path / "elu" / "onnx" / "model.onnx")
    lopsided = Model.seal(tmp_path / "elu", plain.signature)
    assert NNCFINT8().space(lopsided, small.target()).default["preset"] == "mixed"


def test_half_range_weights_where_sums_would_saturate(tmp_path: Path) -> None:
    quiet_telemetry()
    import openvino

    model = small.conv_net(tmp_path / "in")
    largest = {}
    for fix in ("enable", "disable"):
        result = quantised(model, tmp_path / fix, overflow_fix=fix)
        operators = openvino.Core().read_model(result.forms["openvino"]).get_ops()
        constants = [op.data for op in operators if op.get_type_name() == "Constant"]
        weights = [data for data in constants if data.dtype == np.int8]
        assert len(weights) == 3
        largest[fix] = max(int(np.abs(data.astype(int)).max()) for data in weights)
    assert largest["enable"] <= 64 < 120 < largest["disable"]


def test_what_it_cannot_quantise_does_not_apply(tmp_path: Path) -> None:
    model = small.conv_net(tmp_path / "in")
    assert NNCFINT8().applies(model, small.target())
    assert not NNCFINT8().applies(model, small.target(device="cuda"))
    nothing = small.seal(
        tmp_path / "relu",
        [node("Relu", ["x"], ["y"])],
        {},
        inputs={"x": ("n", 4)},
        outputs={"y": ("n", 4)},
    )
    assert "no convolution" in NNCFINT8().applies(nothing, small.target()).reason
    result = quantised(model, tmp_path / "out")
    assert NNCFINT8().applies(result, small.target()).reason == "needs an ONNX form"
