from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import pytest

from strop.errors import NotApplicable
from strop.models import relative_error
from strop.techniques.fp16 import FP16

from . import small_graphs as small
from .small_graphs import node


def types_of(model) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in small.proto_of(model).graph.initializer}


@pytest.mark.parametrize("weights_only", [True, False])
def test_outputs_stay_close_and_the_border_stays_float32(
    tmp_path: Path, weights_only: bool
) -> None:
    model = small.conv_net(tmp_path / "in")
    result = small.apply(FP16(), model, tmp_path / "out", weights_only=weights_only)
    arrays = {"image": small.floats(4, 3, 8, 8)}
    before, after = small.run(model, arrays)["logits"], small.run(result, arrays)["logits"]
    assert after.dtype == np.float32
    assert 0 < relative_error(before, after) < 5e-3
    assert result.signature == model.signature
    size, half = (m.forms["onnx"].stat().st_size for m in (model, result))
    assert half < 0.65 * size
    assert result.meta["halved"] > 0


def test_only_big_weights_are_halved(tmp_path: Path) -> None:
    result = small.apply(FP16(), small.conv_net(tmp_path / "in"), tmp_path / "out")
    types = types_of(result)
    assert {name for name, kind in types.items() if kind == onnx.TensorProto.FLOAT16} == {
        "w1:fp16",
        "w2:fp16",
        "w3:fp16",
    }
    assert types["b1"] == types["b3"] == onnx.TensorProto.FLOAT


def test_a_weight_beyond_the_range_stays(tmp_path: Path) -> None:
    large = small.floats(64, 64)
    large[3, 5] = 1e5
    nodes = [node("MatMul", ["x", "large"], ["h"]), node("MatMul", ["h", "w"], ["y"])]
    model = small.seal(
        tmp_path / "in",
        nodes,
        {"large": large, "w": small.floats(64, 64, seed=1)},
        inputs={"x": ("n", 64)},
        outputs={"y": ("n", 64)},
    )
    for weights_only in (True, False):
        result = small.apply(FP16(), model, tmp_path / f"{weights_only}", weights_only=weights_only)
        types = types_of(result)
        assert types["large"] == onnx.TensorProto.FLOAT
        assert types["w:fp16"] == onnx.TensorProto.FLOAT16
        assert result.meta["kept_fp32_weights"] == ["large"]
        assert np.isfinite(small.run(result, {"x": small.floats(2, 64)})["y"]).all()


def test_softmax_and_epsilons_stay_single(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="product"),
        node("Softmax", ["h"], ["p"], name="softmax"),
        node("Add", ["p", "epsilon"], ["q"], name="guard"),
        node("Div", ["one", "q"], ["y"], name="inverse"),
    ]
    model = small.seal(
        tmp_path / "in",
        nodes,
        {"w": small.floats(32, 32) * 20, "epsilon": 1e-12, "one": 1.0},
        inputs={"x": ("n", 32)},
        outputs={"y": ("n", 32), "p": ("n", 32)},
    )
    result = small.apply(FP16(), model, tmp_path / "out", weights_only=False)
    proto = small.proto_of(result)
    found = {n.name: list(n.input) for n in proto.graph.node}
    assert found["product"] == ["x:fp16", "w:fp16"]
    assert found["softmax"] == ["h"]
    assert found["guard"] == ["p", "epsilon"]
    arrays = {"x": np.zeros((2, 32), np.float32)}
    before, after = small.run(model, arrays), small.run(result, arrays)
    assert np.isfinite(after["y"]).all()
    assert relative_error(before["p"], after["p"]) < 1e-3


def test_subgraphs_and_fixed_types_stay_single(tmp_path: Path) -> None:
    branch = [
        onnx.helper.make_graph(
            [node(op, ["h"], [f"{op}_out"])],
            op,
            [],
            [onnx.helper.make_tensor_value_info(f"{op}_out", 1, None)],
        )
        for op in ("Relu", "Neg")
    ]
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="product"),
        node("ReduceMax", ["h"], ["top"], keepdims=0),
        node("Greater", ["top", "zero"], ["positive"], name="compare"),
        node("If", ["positive"], ["y"], then_branch=branch[0], else_branch=branch[1]),
    ]
    model = small.seal(
        tmp_path / "in",
        nodes,
        {"w": small.floats(32, 32), "zero": 0.0},
        inputs={"x": ("n", 32)},
        outputs={"y": ("n", 32)},
    )
    result = small.apply(FP16(), model, tmp_path / "out", weights_only=False)
    arrays = {"x": small.floats(2, 32)}
    assert relative_error(small.run(model, arrays)["y"], small.run(result, arrays)["y"]) < 5e-3


def test_parameters_follow_the_device(tmp_path: Path) -> None:
    model = small.conv_net(tmp_path / "in")

    def values(*isa: str, **machine: str) -> tuple[bool, ...]:
        (choice,) = FP16().space(model, small.target(*isa, **machine)).choices
        return choice.values

    assert values("avx2", "avx512_vnni") == (True,)
    assert values("avx512_fp16") == (True, False)
    assert values("asimdhp", architecture="aarch64") == (False, True)
    assert values("avx2", device="cuda") == (False, True)


def test_models_without_big_weights_are_refused(tmp_path: Path) -> None:
    tiny = small.seal(
        tmp_path / "tiny",
        [node("Add", ["x", "b"], ["y"])],
        {"b": small.floats(4)},
        inputs={"x": ("n", 4)},
        outputs={"y": ("n", 4)},
    )
    assert not FP16().applies(tiny, small.target())
    unfit = small.seal(
        tmp_path / "unfit",
        [node("Add", ["x", "b"], ["y"])],
        {"b": small.floats(1000) * np.float32(1e6)},
        inputs={"x": ("n", 1000)},
        outputs={"y": ("n", 1000)},
    )
    with pytest.raises(NotApplicable, match="leaving its range"):
        small.apply(FP16(), unfit, tmp_path / "out")
    assert FP16().applies(small.conv_net(tmp_path / "net"), small.target())


def test_tensors_that_overflow_on_the_calibration_rows_stay_float32(tmp_path: Path) -> None:
    model = small.seal(
        tmp_path / "in",
        [
            node("MatMul", ["x", "w1"], ["loud"], name="first"),
            node("Relu", ["loud"], ["r"], name="relu"),
            node("MatMul", ["r", "w2"], ["quiet"], name="second"),
            node("MatMul", ["quiet", "w3"], ["y"], name="third"),
        ],
        {
            "w1": small.floats(64, 64, seed=1) * 9000,  # products of some 9000·√64 and more
            "w2": small.floats(64, 64, seed=2) / 1e3,
            "w3": small.floats(64, 64, seed=3) / 8,
        },
        inputs={"x": ("n", 64)},
        outputs={"y": ("n", 64)},
    )
    arrays = {"x": small.floats(16, 64, seed=9)}
    answer = small.run(model, arrays)["y"]
    blind = small.apply(FP16(), model, tmp_path / "blind", weights_only=False)
    # ONNX Runtime without FP16 arithmetic computes in FP32, and its casts cancel out.
    with np.errstate(all="ignore"):
        (spoilt,) = onnx.reference.ReferenceEvaluator(small.proto_of(blind)).run(None, arrays)
    assert not np.all(np.isfinite(spoilt))
    data = {"calibrate": small.dataset(model, 24)}
    seen = small.apply(FP16(), model, tmp_path / "seen", data=data, weights_only=False)
    assert seen.meta["kept_fp32_tensors"] == ["loud", "r"]
    types = types_of(seen)
    assert types["w1"] == onnx.TensorProto.FLOAT
    assert types["w3:fp16"] == onnx.TensorProto.FLOAT16
    (kept,) = onnx.reference.ReferenceEvaluator(small.proto_of(seen)).run(None, arrays)
    assert relative_error(answer, kept) < 5e-3
