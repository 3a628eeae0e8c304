import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strop import engines
from strop.engines import executorch as engine_module
from strop.engines import executorch_lowering
from strop.errors import InputError, NotApplicable
from strop.models.model import Model
from strop.records import Placement, Signature, TensorSpec
from strop.testing import graphs
from strop.testing.engines import EngineConformance
from strop.testing.targets import target

ENGINE = engines.get("executorch")
runs = pytest.mark.skipif(
    importlib.util.find_spec("executorch") is None, reason="executorch is not installed"
)


@pytest.fixture(scope="module")
def _lowered_once() -> Iterator[None]:
    """Lowering takes seconds: what one test has lowered serves the others."""
    lower = engine_module.lower
    known: dict[Any, tuple[bytes, bytes]] = {}

    def once(model: Model, artifact: Path, **options: Any) -> None:
        key = (model.digest, *options.items())
        limits = artifact.parent / "limits.json"
        if key not in known:
            lower(model, artifact, **options)
            known[key] = (artifact.read_bytes(), limits.read_bytes())
        artifact.write_bytes(known[key][0])
        limits.write_bytes(known[key][1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "lower", once)
        yield


@runs
@pytest.mark.slow
@pytest.mark.usefixtures("_lowered_once")
class TestConformance(EngineConformance):
    engine = "executorch"


@runs
@pytest.mark.slow
def test_convolutions_run_on_xnnpack_and_builds_are_the_same_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "lower", executorch_lowering.lower)
    case = graphs.convolutional()
    model = case.write(tmp_path / "model")
    built = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        built.append(ENGINE.build(model, {"batch": 40}, tmp_path / name))
    content = built[0].read_bytes()
    assert content == built[1].read_bytes()
    assert b"XnnpackBackend" in content
    session = ENGINE.load(built[0], model.signature, {"batch": 40}, Placement(threads=1))
    for rows in (3, 40, 1, 17):
        arrays = case.inputs(rows, 0)
        outputs = session.run(arrays)
        for name, expected in case.answer(arrays).items():
            np.testing.assert_allclose(outputs[name], expected, rtol=1e-5, atol=1e-5)


@runs
def test_a_damaged_program_is_refused(tmp_path: Path) -> None:
    artifact = tmp_path / "model.pte"
    artifact.write_bytes(b"no program at all")
    (tmp_path / "limits.json").write_text('{"input.1": {"0": 64}}')
    with pytest.raises(NotApplicable, match="ExecuTorch cannot load the program"):
        ENGINE.load(artifact, graphs.linear().signature, {}, Placement())


def test_the_networks_that_it_takes_and_does_not_take(tmp_path: Path) -> None:
    model = graphs.linear().write(tmp_path / "model")
    assert ENGINE.applies(model, target())
    assert ENGINE.space(model, target()).default == {"delegate": "xnnpack"}
    assert ENGINE.space(model, target(batch=100)).default["batch"] == 100
    spec = TensorSpec(name="x", dtype="str", shape=("n",))
    text = Model(model.path, Signature(inputs=(spec,), outputs=(spec,)), "", model.forms)
    assert "takes no str" in ENGINE.applies(text, target()).reason
    nothing = Model(model.path, model.signature, "", {}, meta={"export_error": "it loops"})
    assert "it loops" in ENGINE.applies(nothing, target()).reason
    with pytest.raises(NotApplicable, match="ONNX form"):
        ENGINE.build(nothing, {}, tmp_path)


@pytest.mark.parametrize(
    ("options", "text"),
    [({"delegate": "magic"}, "known: xnnpack, portable"), ({"batch": 0}, "number from 1")],
)
def test_options_are_checked(options: dict[str, Any], text: str, tmp_path: Path) -> None:
    model = graphs.linear().write(tmp_path / "model")
    with pytest.raises(InputError, match=text):
        ENGINE.build(model, options, tmp_path)


def test_another_pytorch_than_it_was_compiled_with_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faked: the import fails as it does where symbols of PyTorch are missing."""

    def fails(*_: object, **__: object) -> None:
        raise ImportError("_C.so: undefined symbol: _ZN3c10")

    monkeypatch.setattr(engine_module, "lower", fails)
    model = graphs.linear().write(tmp_path / "model")
    with pytest.raises(NotApplicable, match=r"does not load beside PyTorch 2\.\d+.*_ZN3c10"):
        ENGINE.build(model, {}, tmp_path)
    monkeypatch.setitem(sys.modules, "executorch.extension.pybindings", None)
    with pytest.raises(NotApplicable, match=r"goes with PyTorch 2\.13"):
        ENGINE.load(tmp_path / "model.pte", model.signature, {}, Placement())


def test_limits_that_are_gone_or_broken_are_told(tmp_path: Path) -> None:
    artifact = tmp_path / "model.pte"
    with pytest.raises(NotApplicable, match=r"limits\.json"):
        engine_module._limits(artifact)
    (tmp_path / "limits.json").write_text(json.dumps({"x": [1]}))
    with pytest.raises(NotApplicable, match=r"limits\.json"):
        engine_module._limits(artifact)
    (tmp_path / "limits.json").write_text(json.dumps({"x": {"0": 4}}))
    assert engine_module._limits(artifact) == {"x": {0: 4}}


@runs
def test_limits_of_another_program_are_refused(tmp_path: Path) -> None:
    (tmp_path / "limits.json").write_text(json.dumps({"other": {"0": 4}}))
    with pytest.raises(NotApplicable, match="another program's"):
        ENGINE.load(tmp_path / "model.pte", graphs.linear().signature, {}, Placement())


class Doubling:
    """A program that gives twice its first input, and notes how many rows came at once."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def forward(self, tensors: list[Any]) -> list[Any]:
        self.rows.append(len(tensors[0]))
        return [2 * tensors[0]]


@pytest.mark.parametrize(("second", "in_parts"), [("n", True), ("m", False)])
def test_a_batch_goes_in_parts_only_where_all_is_rows_of_it(second: str, in_parts: bool) -> None:
    pytest.importorskip("torch")

    def spec(name: str, dim: str) -> TensorSpec:
        return TensorSpec(name=name, dtype="float32", shape=(dim, 2))

    signature = Signature(inputs=(spec("a", "n"), spec("b", second)), outputs=(spec("y", "n"),))
    program = Doubling()
    session = engine_module._ExecuTorchSession(program, signature, {"a": {0: 2}, "b": {0: 2}})
    a = np.arange(10, dtype=np.float32).reshape(5, 2)
    if in_parts:
        np.testing.assert_array_equal(session.run({"a": a, "b": a})["y"], 2 * a)
        assert program.rows == [2, 2, 1]
    else:
        with pytest.raises(InputError, match="planned for 2"):
            session.run({"a": a, "b": a[:1]})
        assert not program.rows
