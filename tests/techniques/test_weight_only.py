from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import helper, numpy_helper

from strop.data import read
from strop.engines import quiet_telemetry
from strop.errors import NotApplicable
from strop.models import Model, graph
from strop.models.model import Model as SealedModel
from strop.techniques import weight_only
from strop.techniques.weight_only import WeightOnly
from strop.testing.techniques import TechniqueConformance

from . import small_graphs as small
from .small_graphs import floats, node


class TestWeightOnlyConformance(TechniqueConformance):
    technique = "weight-only"
    tolerance = 0.4  # three layers of white noise in 4 bits and blocks of 64


def encoder(folder: Path, hidden: int = 72) -> Model:
    """Embeddings of words, a MatMul, a Gemm each way; 72 is no multiple of any block."""
    nodes = [
        node("Gather", ["words", "ids"], ["e"], name="embed"),
        node("MatMul", ["e", "w1"], ["h"], name="hidden"),
        node("Relu", ["h"], ["r"], name="relu"),
        node("ReduceMean", ["r"], ["m"], name="pool", axes=[1], keepdims=0),
        node("Gemm", ["m", "w2", "b2"], ["g"], name="across", transB=1),
        node("Gemm", ["g", "w3", "b3"], ["y"], name="along"),
    ]
    constants = {
        "words": floats(200, 96, seed=1),
        "w1": floats(96, hidden, seed=2) / 10,
        "w2": floats(64, hidden, seed=3) / 8,
        "b2": floats(64, seed=4),
        "w3": floats(64, 80, seed=5) / 8,
        "b3": floats(80, seed=6),
    }
    body = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", 7, ("n", 5))],
        [helper.make_tensor_value_info("y", 1, ("n", 80))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    proto = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    graph.write(proto, folder / "onnx" / "model.onnx")
    return Model.seal(folder, graph.signature(proto))


def narrowed(model: Model, folder: Path, rows: int = 24, **params: Any) -> Model:
    ids = np.random.default_rng(9).integers(0, 200, (rows, 5))
    data = {"calibrate": read({"ids": ids}, model.signature)}
    return small.apply(WeightOnly(), model, folder, data=data, **params)


def by_hand(result: Model, ids: np.ndarray, original: Model) -> np.ndarray:
    """The network in float64 with the weights that the file's integers stand for."""
    stored = {t.name: numpy_helper.to_array(t) for t in small.proto_of(result).graph.initializer}
    found = {}
    for entry in small.proto_of(result).graph.node:
        if entry.domain != "com.microsoft":
            continue
        given = {a.name: helper.get_attribute_value(a) for a in entry.attribute}
        blob = "B" if entry.op_type == "MatMulNBits" else "data"
        names = dict(zip(("A", "B", "s", "z") if blob == "B" else ("data", "i", "s", "z"),
                         entry.input, strict=False))  # fmt: skip
        bits, block = given["bits"], given["block_size"]
        weight = stored[names[blob]]
        scales, zeros = stored[names["s"]], stored.get(names.get("z", ""))
        rows = given.get("N", weight.shape[0])
        integers = unpacked(weight.reshape(rows, -1), bits)
        count = scales.size // rows
        middle = np.full((rows, count), 2 ** (bits - 1))
        if zeros is not None:
            middle = unpacked(zeros.reshape(rows, -1), bits)[:, :count]
        width = given.get("K", integers.shape[1])
        real = (integers - np.repeat(middle, block, 1)[:, : integers.shape[1]]).astype(np.float64)
        real *= np.repeat(scales.reshape(rows, count), block, 1)[:, : integers.shape[1]]
        found[entry.name] = real[:, :width]
    biases = {t.name: numpy_helper.to_array(t) for t in small.proto_of(original).graph.initializer}
    hidden = np.maximum(found["embed"][ids] @ found["hidden"].T, 0).mean(axis=1)
    answer: np.ndarray = (hidden @ found["across"].T + biases["b2"]) @ found["along"].T
    return answer + biases["b3"]


def unpacked(values: np.ndarray, bits: int) -> np.ndarray:
    if bits == 8:
        return values.astype(np.int64)
    pair = np.stack([values & 15, values >> 4], axis=-1)
    return pair.reshape(*values.shape[:-1], -1).astype(np.int64)


def on_openvino(model: Model, ids: np.ndarray) -> np.ndarray:
    pytest.importorskip("openvino")
    quiet_telemetry()
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"}
    options |= {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0", "INFERENCE_NUM_THREADS": "1"}
    network = openvino.convert_model(model.forms["onnx"])
    outputs = openvino.compile_model(network, "CPU", options)([ids])
    return np.asarray(outputs[0])


@pytest.mark.parametrize("bits", [4.0, 8.0])
@pytest.mark.parametrize("symmetric", [True, False])
def test_both_engines_compute_what_the_integers_say(
    tmp_path: Path, bits: float, symmetric: bool
) -> None:
    model = encoder(tmp_path / "in")
    chosen: dict[str, Any] = {"bits": bits, "block": 32, "symmetric": symmetric}
    result = narrowed(model, tmp_path / "out", products="float", **chosen)
    ids = np.random.default_rng(1).integers(-200, 200, (7, 5))
    expected = by_hand(result, ids, model)
    np.testing.assert_allclose(small.run(result, {"ids": ids})["y"], expected, atol=1e-4)
    np.testing.assert_allclose(on_openvino(result, ids), expected, atol=1e-4)


@pytest.mark.parametrize("bits", [4.0, 8.0])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_standard_layout_holds_the_same_weights(
    tmp_path: Path, bits: float, symmetric: bool
) -> None:
    model = encoder(tmp_path / "in", 64)
    chosen: dict[str, Any] = {"bits": bits, "block": 32, "symmetric": symmetric}
    chosen["products"] = "float"
    one = narrowed(model, tmp_path / "one", **chosen)
    other = narrowed(model, tmp_path / "other", layout="standard", **chosen)
    proto = small.proto_of(other)
    onnx.checker.check_model(proto, full_check=True)
    assert {entry.domain for entry in proto.graph.node} == {""}
    ids = np.random.default_rng(1).integers(0, 200, (7, 5))
    expected = by_hand(one, ids, model)
    evaluator = onnx.reference.ReferenceEvaluator(proto)
    np.testing.assert_allclose(evaluator.run(None, {"ids": ids})[0], expected, atol=1e-4)
    np.testing.assert_allclose(small.run(other, {"ids": ids})["y"], expected, atol=0.05)
    np.testing.assert_allclose(on_openvino(other, ids), expected, atol=1e-4)


def test_file_and_meta_say_what_was_done(tmp_path: Path) -> None:
    model = encoder(tmp_path / "in")
    before = model.forms["onnx"].stat().st_size
    eight = narrowed(model, tmp_path / "eight")
    four = narrowed(model, tmp_path / "four", bits=4.0)
    mixed = narrowed(model, tmp_path / "mixed", bits=6.0)
    sizes = [entry.forms["onnx"].stat().st_size for entry in (four, mixed, eight)]
    assert sizes == sorted(sizes)
    assert sizes[2] < before / 3
    assert sizes[0] < before / 5
    assert eight.meta["quantised"] is True
    assert set(eight.meta["weight_bits"]) == {"words", "w1", "w2", "w3"}
    tables = {"words": 200 * 96, "w1": 96 * 72, "w2": 64 * 72, "w3": 64 * 80}
    average = sum(mixed.meta["weight_bits"][name] * size for name, size in tables.items())
    assert 4 < average / sum(tables.values()) <= 6
    assert set(mixed.meta["weight_bits"].values()) == {4, 8}
    assert SealedModel.open(four.path).digest == four.digest


def test_calibrated_rounding_beats_nearest_on_the_outputs(tmp_path: Path) -> None:
    model = encoder(tmp_path / "in")
    ids = np.random.default_rng(4).integers(0, 200, (64, 5))
    answer = small.run(model, {"ids": ids})["y"]

    def error(rounding: str) -> float:
        result = narrowed(model, tmp_path / rounding, 64, bits=4.0, block=32, rounding=rounding)
        return float(((small.run(result, {"ids": ids})["y"] - answer) ** 2).mean())

    assert error("compensated") < 0.9 * error("nearest")


def test_what_was_built_before_does_not_decide_what_is_built_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_only, "_recent", {})
    # 100 is no multiple of 8: stored in one layout and not in the other.
    model = encoder(tmp_path / "model", hidden=100)
    fresh = narrowed(model, tmp_path / "fresh", bits=4.0, block=32)
    monkeypatch.setattr(weight_only, "_recent", {})
    narrowed(model, tmp_path / "other", bits=4.0, block=32, layout="standard")
    assert narrowed(model, tmp_path / "again", bits=4.0, block=32).digest == fresh.digest


def test_what_it_leaves_alone(tmp_path: Path) -> None:
    answer = WeightOnly().applies(small.conv_net(tmp_path / "conv"), small.target())
    assert not answer
    assert "no large matrix product" in answer.reason
    shared = small.seal(
        tmp_path / "shared",
        [
            node("MatMul", ["x", "w"], ["h"], name="product"),
            node("ReduceSum", ["w"], ["s"], name="sum", keepdims=0),
            node("Add", ["h", "s"], ["y"], name="add"),
        ],
        {"w": floats(64, 80)},
        inputs={"x": ("n", 64)},
        outputs={"y": ("n", 80)},
    )
    assert not WeightOnly().applies(shared, small.target())
    assert not WeightOnly().applies(encoder(tmp_path / "e"), small.target(device="gpu"))


def test_bits_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match="from 4 to 8"):
        narrowed(encoder(tmp_path / "in"), tmp_path / "out", bits=3.0)
