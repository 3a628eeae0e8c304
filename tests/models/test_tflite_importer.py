import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strop import engines, models
from strop.errors import ModelError
from strop.models.model import Model
from strop.records import Placement, Signature
from strop.testing import graphs, tflite
from strop.testing.targets import target
from strop.testing.tflite import Operator, Tensor

RUNTIMES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(package) is None, reason=f"{package} is not installed"
        ),
    )
    for name, package in (("openvino", "openvino"), ("litert", "ai_edge_litert"))
]
SUM, MUL = 74, 18


def load(path: Path, said: list[str] | None = None) -> Model:
    return models.load(
        path, workdir=path.parent / "model", emit=(said if said is not None else []).append
    )


def only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave one runtime installed."""
    other = {"openvino": "ai_edge_litert", "litert": "openvino"}[name]
    hide(monkeypatch, (other,))


def hide(monkeypatch: pytest.MonkeyPatch, packages: Sequence[str]) -> None:
    find = importlib.util.find_spec

    def found(name: str, package: str | None = None) -> Any:
        return None if name in packages else find(name, package)

    monkeypatch.setattr("importlib.util.find_spec", found)


def run(model: Model, name: str, folder: Path, arrays: dict[str, np.ndarray]) -> Any:
    engine = engines.get(name)
    folder.mkdir()
    artifact = engine.build(model, {}, folder)
    session = engine.load(artifact, model.signature, {}, Placement(threads=1))
    try:
        return session.run(arrays)
    finally:
        session.close()


def fixed(tmp_path: Path, operators: Sequence[Operator], *more: Tensor, rows: int = 1) -> Path:
    tensors = [
        Tensor("x", "float32", (rows, 4)),
        Tensor("y", "float32", (rows, 4)),
        *more,
    ]
    path = tmp_path / "fixed.tflite"
    path.write_bytes(tflite.pack(tensors, operators, ["x"], ["y"]))
    return path


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize("case", [graphs.linear(), graphs.several()], ids=lambda case: case.name)
def test_the_file_is_read_and_runs(
    name: str, case: graphs.Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(name, monkeypatch)
    path = tflite.write(case, tmp_path / "model.tflite")
    model = load(path)
    assert model.forms["tflite"].read_bytes() == path.read_bytes()
    assert model.signature.input_names == case.signature.input_names
    assert model.meta["original_format"] == "tflite"
    arrays = case.inputs(3, 0)
    outputs = run(model, name, tmp_path / "artifact", arrays)
    for output, expected in case.answer(arrays).items():
        assert outputs[output].dtype == expected.dtype
        np.testing.assert_allclose(outputs[output], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_fixed_batch_becomes_free_where_rows_are_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(name, monkeypatch)
    said: list[str] = []
    model = load(fixed(tmp_path, [Operator(19, ("x",), ("y",))]), said)
    assert str(model.signature) == "(x: float32[batch, 4]) -> (y: float32[batch, 4])"
    assert model.meta["batch"] == {"declared": 1, "freed": True, "reason": ""}
    assert "the fixed batch of 1 is free now" in said
    x = np.arange(-6, 6, dtype=np.float32).reshape(3, 4)
    outputs = run(model, name, tmp_path / "artifact", {"x": x})
    np.testing.assert_array_equal(outputs["y"], np.maximum(x, 0))


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_batch_stays_fixed_where_rows_depend_on_each_other(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(name, monkeypatch)
    said: list[str] = []
    path = fixed(
        tmp_path,
        [
            Operator(SUM, ("x", "axis"), ("sum",), keep_dims=True),
            Operator(0, ("x", "sum"), ("y",)),
        ],
        Tensor("axis", "int32", (1,), np.array([0], np.int32)),
        Tensor("sum", "float32", (1, 4)),
        rows=2,
    )
    model = load(path, said)
    assert model.meta["batch"]["freed"] is False
    assert model.signature.inputs[0].shape == (2, 4)
    assert any("the batch stays fixed" in line and "depend" in line for line in said)
    x = np.ones((2, 4), np.float32)
    outputs = run(model, name, tmp_path / "artifact", {"x": x})
    np.testing.assert_array_equal(outputs["y"], 3 * x)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_custom_operator_is_one_clear_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(name, monkeypatch)
    path = fixed(tmp_path, [Operator("MyOwnOperator", ("x",), ("y",))])
    label = {"openvino": "OpenVINO", "litert": "LiteRT"}[name]
    with pytest.raises(ModelError) as caught:
        load(path)
    assert caught.value.message == (
        f"'fixed.tflite' uses the custom operator 'MyOwnOperator', which {label} does not have"
    )


def test_neither_runtime_installed_tells_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, ("ai_edge_litert", "openvino"))
    path = fixed(tmp_path, [Operator(19, ("x",), ("y",))])
    with pytest.raises(ModelError, match=r"LiteRT or OpenVINO.*strop\[litert\]"):
        load(path)


def test_engines_and_techniques_that_read_onnx_say_so(tmp_path: Path) -> None:
    from strop import techniques

    pytest.importorskip("openvino")
    model = load(fixed(tmp_path, [Operator(19, ("x",), ("y",))]))
    answer = engines.get("onnxruntime").applies(model, target())
    assert not answer
    assert "needs an ONNX form, and no maintained converter" in answer.reason
    for name in ("cleanup", "int8-static", "int8-dynamic", "fp16", "to-module"):
        verdict = techniques.get(name).applies(model, target())
        assert not verdict
        assert "ONNX" in verdict.reason, name


def test_a_runtime_that_refuses_the_file_gives_its_reason(tmp_path: Path) -> None:
    path = tflite.write(graphs.linear(), tmp_path / "model.tflite")
    model = load(path)
    refused = Model.seal(
        model.path, model.signature, meta={**model.meta, "litert_error": "LiteRT refuses it"}
    )
    answer = engines.get("litert").applies(refused, target())
    assert answer.reason == "LiteRT refuses it"


def test_a_type_that_cannot_be_tried_keeps_its_batch(tmp_path: Path) -> None:
    from dataclasses import replace

    from strop.models import tflite_file
    from strop.models.tflite_importer import _free_batch

    facts = tflite_file.read(fixed(tmp_path, [Operator(19, ("x",), ("y",))]))
    specs = [
        spec.model_copy(update={"dtype": "bfloat16"})
        for spec in (*facts.signature.inputs, *facts.signature.outputs)
    ]
    odd = replace(facts, signature=Signature(inputs=(specs[0],), outputs=(specs[1],)))
    signature, batch = _free_batch(odd, {}, tmp_path / "fixed.tflite", None)
    assert signature == odd.signature
    assert not batch["freed"] and "bfloat16" in batch["reason"]
