from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from strop.errors import InputError, StropError
from strop.records import SessionSpec
from strop.serve.errors import BadRequest
from strop.serve.model import ServedModel, open_model
from strop.serve.request import InferRequest
from strop.serve.settings import ModelSettings
from strop.serve.warmup import warm

from .fakes import Doubling, network, scaling, served

FLOAT = TensorProto.FLOAT


def opened(path: Path, **settings: Any) -> ServedModel:
    model = open_model("m", "1", path, ModelSettings(path, threads=1, **settings))
    warm(model)
    return model


def node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    return helper.make_node(kind, inputs, outputs, **attributes)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model counts as one of some microseconds, however busy the machine is."""
    monkeypatch.setattr("strop.serve.warmup._INLINE_SECONDS", 1000.0)


@pytest.mark.parametrize(
    ("engine", "name", "platform"),
    [
        ("onnxruntime", "m.onnx", "onnxruntime_onnx"),
        ("openvino", "m.xml", "openvino_openvino"),
        ("litert", "m.TFLITE", "litert_tflite"),
    ],
)
def test_the_platform_names_the_engine_and_what_it_opens(
    engine: str, name: str, platform: str
) -> None:
    session = Doubling()
    spec = SessionSpec(engine=engine, artifact=name, signature=session.signature)
    assert ServedModel("m", "1", ModelSettings(Path(name)), spec, session).platform == platform


def test_a_plain_onnx_file_is_described_as_the_protocol_wants_it(
    tmp_path: Path, quick: None
) -> None:
    model = opened(scaling(tmp_path / "scale.onnx"), max_batch=8)
    assert model.platform == "onnxruntime_onnx"
    assert model.inputs == (("x", "FP32", (-1, 4)),)
    assert (model.limit, model.max_batch, model.workers) == (8, 8, 1)
    assert model.batching.allowed
    assert model.batching.deviation == 0.0
    assert model.curve.known
    assert model.inline
    config = model.config()
    assert config["max_batch_size"] == 8
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}]
    model.close()


def test_rows_that_see_each_other_are_never_batched(tmp_path: Path) -> None:
    path = network(
        tmp_path / "mean.onnx",
        [
            node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
            node("Sub", ["x", "m"], ["y"]),
        ],
        [("x", FLOAT, ["n", 4])],
        [("y", FLOAT, ["n", 4])],
    )
    model = opened(path)
    assert not model.batching.allowed
    assert "neighbours" in model.batching.reason
    assert model.max_batch == 0
    assert model.check(InferRequest("m", {"x": np.zeros((100, 4), np.float32)})) == 1
    assert opened(path, batching="always").batching.allowed


@pytest.mark.parametrize(
    ("nodes", "output", "reason"),
    [
        ([("ReduceSum", ["x"], {"keepdims": 1})], ["k", 1], "does not scale"),
        ([("ReduceSum", ["x"], {"keepdims": 0})], [], "no first dimension"),
        ([("Concat", ["x", "x"], {"axis": 0})], ["k", 4], "does not scale"),
    ],
)
def test_outputs_that_do_not_scale_with_the_batch(
    tmp_path: Path,
    nodes: list[tuple[str, list[str], dict[str, Any]]],
    output: list[Any],
    reason: str,
) -> None:
    ((kind, inputs, attributes),) = nodes
    path = network(
        tmp_path / "m.onnx",
        [node(kind, inputs, ["y"], **attributes)],
        [("x", FLOAT, ["n", 4])],
        [("y", FLOAT, output)],
    )
    model = opened(path)
    assert not model.batching.allowed
    assert reason in model.batching.reason


def test_a_fixed_or_doubtful_first_dimension_is_not_a_batch(tmp_path: Path) -> None:
    fixed = network(
        tmp_path / "fixed.onnx",
        [node("Relu", ["x"], ["y"])],
        [("x", FLOAT, [2, 4])],
        [("y", FLOAT, [2, 4])],
    )
    model = opened(fixed)
    assert not model.batching.allowed
    assert model.curve.known  # it was warmed up all the same
    with pytest.raises(BadRequest):
        model.check(InferRequest("m", {"x": np.zeros((1, 4), np.float32)}))
    two = network(
        tmp_path / "two.onnx",
        [node("ReduceSum", ["b"], ["s"], keepdims=0), node("Add", ["a", "s"], ["y"])],
        [("a", FLOAT, ["n", 4]), ("b", FLOAT, ["k", 4])],
        [("y", FLOAT, ["n", 4])],
    )
    assert "different dimensions" in opened(two).batching.reason


def test_text_goes_in_and_out_as_bytes(tmp_path: Path) -> None:
    path = network(
        tmp_path / "text.onnx",
        [node("Identity", ["x"], ["y"])],
        [("x", TensorProto.STRING, ["n", 2])],
        [("y", TensorProto.STRING, ["n", 2])],
    )
    model = opened(path)
    assert model.inputs[0].datatype == "BYTES"
    request = InferRequest("m", {"x": np.array([[b"a", "ü".encode()]], object)})
    assert model.check(request) == 1
    answer = model.run(request.inputs)["y"]
    assert answer.tolist() == [[b"a", "ü".encode()]]
    with pytest.raises(BadRequest, match="not UTF-8"):
        model.check(InferRequest("m", {"x": np.array([[b"\xff", b""]], object)}))
    with pytest.raises(BadRequest, match="neither bytes nor text"):
        model.check(InferRequest("m", {"x": np.array([[1, b""]], object)}))


def test_inputs_in_the_middle_of_a_buffer_give_the_same_answer(tmp_path: Path) -> None:
    from strop.serve.instance import Batch

    model = opened(scaling(tmp_path / "scale.onnx"))
    x = np.arange(4, dtype=np.float32).reshape(1, 4)
    raw = b"abc" + x.tobytes()
    unaligned = np.frombuffer(raw, np.float32, 4, offset=3).reshape(1, 4)
    assert not unaligned.flags.aligned
    for part in (unaligned, np.asfortranarray(x.repeat(2, 0))[:1]):
        batch = Batch([{"x": part}], [1])
        batch.compute(model, model.session, None)
        assert batch.outputs is not None
        np.testing.assert_array_equal(batch.outputs["y"], x * 2)


def test_control_flow_never_runs_inline(tmp_path: Path, quick: None) -> None:
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["r"])],
        "b",
        [],
        [helper.make_tensor_value_info("r", FLOAT, ["n", 4])],
    )
    path = network(
        tmp_path / "if.onnx",
        [node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
        [("x", FLOAT, ["n", 4])],
        [("y", FLOAT, ["n", 4])],
        {"c": np.array(True)},
    )
    assert opened(scaling(tmp_path / "s.onnx")).inline
    assert not opened(path).inline
    assert not opened(scaling(tmp_path / "s.onnx"), inline=False).inline
    assert not opened(scaling(tmp_path / "s.onnx"), workers=2).inline


def test_a_model_that_fails_on_made_up_inputs_is_served_without_batching() -> None:
    class Picky(Doubling):
        def run(self, arrays: Any) -> dict[str, np.ndarray]:
            raise StropError("not these")

    model = served(Picky())
    warm(model)
    assert not model.batching.allowed
    assert model.limit == 1


def test_a_session_that_returns_its_input_gets_fresh_arrays_each_time() -> None:
    class Echo(Doubling):
        def run(self, arrays: Any) -> dict[str, np.ndarray]:
            return {"y": arrays["x"]}

    echo, doubling = served(Echo()), served(Doubling())
    warm(echo)
    warm(doubling)
    assert not echo.reuses_buffers
    assert doubling.reuses_buffers


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.txt", b"", "no bundle, ONNX file, OpenVINO"),
        ("missing.onnx", None, "does not exist"),
        ("broken.onnx", b"\x00\x01nonsense", "not an ONNX model"),
    ],
)
def test_what_cannot_be_opened_says_why(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StropError, match=said):
        open_model("m", "1", path, ModelSettings(path))


def test_an_openvino_file_is_served(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    network_ = openvino.convert_model(str(scaling(tmp_path / "scale.onnx")))
    openvino.save_model(network_, tmp_path / "scale.xml", compress_to_fp16=False)
    model = opened(tmp_path / "scale.xml", max_batch=4)
    assert model.platform == "openvino_openvino"
    assert model.batching.allowed
    name = model.inputs[0].name
    answer = model.run({name: np.ones((2, 4), np.float32)})
    np.testing.assert_array_equal(answer[model.outputs[0].name], np.full((2, 4), 2.0))
    model.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_batch": 0},
        {"workers": 0},
        {"slo": 0.0},
        {"slo": float("nan")},
        {"delay": -1.0},
        {"policy": "best"},
        {"batching": "yes"},
        {"memory_limit": 0},
    ],
)
def test_settings_are_held_to_their_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        ModelSettings(Path("m"), **wrong)
