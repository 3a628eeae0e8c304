"""TensorFlow SavedModels, read by OpenVINO's frontend without TensorFlow."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from strop import engines
from strop.errors import ModelError
from strop.measure import describe
from strop.models import load
from strop.models.saved_model import _spec
from strop.records import Placement, Target
from strop.search.space import original_recipe

from .savedmodel import write

pytest.importorskip("openvino", reason="needs the extra openvino")
pytest.importorskip("google.protobuf")


@pytest.fixture
def weight():
    return np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def test_the_default_signature_is_read_and_openvino_runs_it(weight, tmp_path):
    model = load(write(tmp_path / "net", weight), workdir=tmp_path / "model")
    assert str(model.signature) == "(x: float32[batch, 4]) -> (logits: float32[batch, 3])"
    assert model.meta["original_format"] == "savedmodel"
    assert set(model.forms) == {"openvino"}
    recipe = original_recipe(model, Target(machine=describe()))
    assert recipe.deploy.engine == "openvino"
    engine = engines.get("openvino")
    (tmp_path / "built").mkdir()
    built = engine.build(model, recipe.deploy.options, tmp_path / "built")
    placement = Placement(threads=1)
    session = engine.load(built, model.signature, recipe.deploy.options, placement)
    x = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    np.testing.assert_allclose(session.run({"x": x})["logits"], x @ weight, rtol=1e-4, atol=1e-5)
    session.close()


def test_engines_that_read_onnx_say_what_would_help(weight, tmp_path):
    model = load(write(tmp_path / "net", weight), workdir=tmp_path / "model")
    answer = engines.get("onnxruntime").applies(model, Target(machine=describe()))
    assert not answer and "tf2onnx" in answer.reason


def test_unsigned_integers_have_numpys_names():
    kind = SimpleNamespace(get_type_name=lambda: "u16")
    shape = SimpleNamespace(rank=SimpleNamespace(is_static=False))
    port = SimpleNamespace(
        get_names=lambda: {"x"}, get_element_type=lambda: kind, get_partial_shape=lambda: shape
    )
    assert str(_spec(port)) == "x: uint16[...]"


def test_a_custom_operator_is_named(weight, tmp_path):
    folder = write(tmp_path / "net", weight, operator="MyOwnOp")
    with pytest.raises(ModelError, match=r"'net': No conversion rule .*MyOwnOp") as caught:
        load(folder, workdir=tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_a_damaged_file_ends_in_one_line(tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "saved_model.pb").write_bytes(b"\xff" * 50)
    with pytest.raises(ModelError, match="cannot read the SavedModel 'net'") as caught:
        load(tmp_path / "net", workdir=tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model_is_no_savedmodel(tmp_path):
    with pytest.raises(ModelError, match="not a strop model directory"):
        load(tmp_path, workdir=tmp_path / "model")
