import importlib.util
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strop import engines, models
from strop.engines.litert import LiteRT, _LiteRTSession
from strop.errors import InputError, NotApplicable, StropError
from strop.models.model import Model
from strop.records import Placement, Signature, TensorSpec
from strop.testing import graphs, tflite
from strop.testing.engines import EngineConformance
from strop.testing.targets import target
from strop.testing.tflite import Operator, Tensor

ENGINE = engines.get("litert")
runs = pytest.mark.skipif(
    importlib.util.find_spec("ai_edge_litert") is None, reason="ai-edge-litert is not installed"
)
converts = pytest.mark.skipif(
    importlib.util.find_spec("litert_torch") is None, reason="litert-torch is not installed"
)


def model_of(case: graphs.Case, folder: Path) -> Model:
    """The case as a `.tflite` file alone, under the case's own names of free dimensions."""
    tflite.write(case, folder / "tflite" / "model.tflite")
    return Model.seal(folder, case.signature)


@runs
class TestConformance(EngineConformance):
    engine = "litert"
    # LiteRT's own kernels compute nothing in FP16.
    cases = (graphs.linear(), graphs.several(), graphs.passthrough())

    def write(self, case: graphs.Case, folder: Path) -> Model:
        return model_of(case, folder)


def opened(
    content: bytes, folder: Path, *, streams: int = 1, threads: int = 1, **options: bool
) -> engines.Session:
    path = folder / "model.tflite"
    path.write_bytes(content)
    model = models.load(path, workdir=folder / "imported")
    (folder / "artifact").mkdir()
    artifact = ENGINE.build(model, options, folder / "artifact")
    placement = Placement(threads=threads, streams=streams)
    return ENGINE.load(artifact, model.signature, options, placement)


def quantised() -> tuple[bytes, np.ndarray, np.ndarray]:
    """A fully connected layer in INT8, its weights and its bias: scales of powers of two."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-40, 40, (3, 4), np.int8)
    bias = rng.integers(-200, 200, 3, np.int32)
    tensors = [
        Tensor("x", "int8", (1, 4), scale=(0.5, 3)),
        Tensor("w", "int8", (3, 4), weight, scale=(0.25, 0)),
        Tensor("b", "int32", (3,), bias, scale=(0.125, 0)),
        Tensor("y", "int8", (1, 3), scale=(16.0, -5)),
    ]
    operators = [Operator(9, ("x", "w", "b"), ("y",))]
    return tflite.pack(tensors, operators, ["x"], ["y"]), weight, bias


@runs
@pytest.mark.parametrize("xnnpack", [True, False])
def test_quantised_inputs_and_outputs_are_the_files_own_integers(
    tmp_path: Path, xnnpack: bool
) -> None:
    content, weight, bias = quantised()
    session = opened(content, tmp_path, xnnpack=xnnpack)
    assert session.signature.inputs[0].dtype == "int8"
    x = np.random.default_rng(1).integers(-128, 128, (5, 4), np.int8)
    y = session.run({"x": x})["y"]
    real = (0.5 * (x.astype(np.float64) - 3)) @ (0.25 * weight.T.astype(np.float64)) + 0.125 * bias
    expected = np.clip(np.round(real / 16) - 5, -128, 127)
    assert y.dtype == np.int8
    assert np.abs(y - expected).max() <= 1  # halves may be rounded either way
    assert len(np.unique(y)) > 3


@runs
def test_a_refused_shape_leaves_the_session_usable(tmp_path: Path) -> None:
    weight = np.ones((3, 4), np.float32)
    tensors = [
        Tensor("x", "float32", (-1, -1)),
        Tensor("w", "float32", (3, 4), weight),
        Tensor("b", "float32", (3,), np.zeros(3, np.float32)),
        Tensor("y", "float32", (-1, 3)),
    ]
    content = tflite.pack(tensors, [Operator(9, ("x", "w", "b"), ("y",))], ["x"], ["y"])
    session = opened(content, tmp_path)
    with pytest.raises(StropError, match="LiteRT fails"):
        session.run({"x": np.ones((2, 5), np.float32)})
    outputs = session.run({"x": np.ones((2, 4), np.float32)})
    np.testing.assert_array_equal(outputs["y"], np.full((2, 3), 4, np.float32))


@runs
def test_a_session_has_as_many_interpreters_as_streams(tmp_path: Path) -> None:
    session = opened(quantised()[0], tmp_path, streams=3)
    assert session.concurrency == 3
    assert session.thread_safe


@runs
class Echo:
    """An interpreter that answers with what it is given."""

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(arrays)


def test_a_call_during_which_the_session_is_closed_gets_its_answer() -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=("n",))
    runner: Any = Echo()
    session = _LiteRTSession([runner], Signature(inputs=(spec,), outputs=(spec,)))

    class Closing(dict[str, np.ndarray]):
        """Closes the session when the call first looks at its inputs."""

        def get(self, name: str, default: Any = None) -> Any:
            session.close()
            return super().get(name, default)

    found: list[Any] = []
    arrays = Closing(x=np.ones(2, np.float32))
    call = threading.Thread(target=lambda: found.append(session.run(arrays)), daemon=True)
    call.start()
    call.join(60)
    assert [one.keys() for one in found] == [{"x"}]
    with pytest.raises(StropError, match="closed"):
        session.run(arrays)


def test_a_file_of_another_border_is_refused(tmp_path: Path) -> None:
    path = tflite.write(graphs.linear(), tmp_path / "model.tflite")
    spec = TensorSpec(name="x", dtype="float32", shape=("n", 4))
    with pytest.raises(NotApplicable, match="LiteRT sees 1 tensors where the model has 2"):
        ENGINE.load(path, Signature(inputs=(spec, spec), outputs=(spec,)), {}, Placement())
    path.write_bytes(b"no file at all")
    with pytest.raises(NotApplicable, match="LiteRT refuses the model"):
        ENGINE.load(path, graphs.linear().signature, {}, Placement())


def test_what_is_not_in_the_format_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, package=None: None if name == "litert_torch" else find(name, package),
    )
    model = graphs.linear().write(tmp_path)
    answer = ENGINE.applies(model, target())
    assert not answer
    assert "needs a .tflite file" in answer.reason
    with pytest.raises(NotApplicable, match="litert-torch"):
        ENGINE.build(model, {}, tmp_path)


def test_the_file_is_the_artefact_and_options_are_checked(tmp_path: Path) -> None:
    model = model_of(graphs.linear(), tmp_path / "model")
    assert ENGINE.applies(model, target())
    artifact = ENGINE.build(model, {"xnnpack": False}, tmp_path)
    assert artifact.read_bytes() == model.forms["tflite"].read_bytes()
    with pytest.raises(InputError, match="wings"):
        ENGINE.build(model, {"wings": 2}, tmp_path)
    assert LiteRT().is_exact({"xnnpack": False})
    assert not LiteRT().is_exact({"wings": 2})


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_a_conversion_that_nothing_was_held_against_is_refused() -> None:
    from strop.engines.litert_convert import _check
    from strop.errors import ModelError

    class Failing:
        def run(self, arrays: Any) -> Any:
            raise ModelError("no such size")

    runner: Any = Failing()
    spec = TensorSpec(name="x", dtype="float32", shape=("n", 4))
    with pytest.raises(NotApplicable, match="runs at none of the sizes"):
        _check(runner, runner, Signature(inputs=(spec,), outputs=(spec,)), 8)


@converts
@pytest.mark.slow
def test_a_graph_is_converted_where_the_converter_is_installed(tmp_path: Path) -> None:
    case = graphs.convolutional()
    model = case.write(tmp_path / "model")
    assert ENGINE.applies(model, target())
    (tmp_path / "artifact").mkdir()
    artifact = ENGINE.build(model, {}, tmp_path / "artifact")
    session = ENGINE.load(artifact, model.signature, {}, Placement(threads=1))
    for rows in (1, 5):
        arrays = case.inputs(rows, rows)
        outputs = session.run(arrays)
        for name, expected in case.answer(arrays).items():
            np.testing.assert_allclose(outputs[name], expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(NotApplicable, match="fixes sizes that the model leaves free"):
        ENGINE.build(graphs.no_weights().write(tmp_path / "other"), {}, tmp_path / "artifact")
