"""The suite passes on an honest technique and fails on one that breaks a promise."""

import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from strop import techniques
from strop.models import Model
from strop.records import Applicability, Choice, Space, Target
from strop.techniques import Context, Technique
from strop.testing.techniques import TechniqueConformance


class Rounded(Technique):
    """Weights rounded to a few binary digits."""

    name = "rounded"
    consumes = "onnx"
    produces = ("onnx",)
    roles = ("calibrate",)

    def applies(self, model: Model, target: Target) -> Applicability:
        proto = onnx.load(model.forms["onnx"])
        if any(entry.data_type == onnx.TensorProto.FLOAT for entry in proto.graph.initializer):
            return Applicability.yes()
        return Applicability.no("has no weights to round")

    def space(self, model: Model, target: Target) -> Space:
        return Space(choices=(Choice(name="digits", values=(6, 5)),))

    def apply(self, model: Model, params: Mapping[str, Any], ctx: Context) -> Model:
        assert len(ctx.data["calibrate"]) == 64
        proto = onnx.load(model.forms["onnx"])
        for entry in proto.graph.initializer:
            values = numpy_helper.to_array(entry)
            if values.dtype == np.float32:
                scale = np.float32(2 ** params["digits"])
                rounded = np.round(values * scale) / scale
                entry.CopyFrom(numpy_helper.from_array(self.change(rounded), entry.name))
        (ctx.workdir / "onnx").mkdir()
        onnx.save(proto, ctx.workdir / "onnx" / "model.onnx")
        return Model.seal(ctx.workdir, model.signature)

    def change(self, values: np.ndarray) -> np.ndarray:
        return values


class Unseeded(Rounded):
    def change(self, values: np.ndarray) -> np.ndarray:
        return values + np.float32(random.random() / 1000)


class FarOff(Rounded):
    def change(self, values: np.ndarray) -> np.ndarray:
        return values * 2


class NotExact(Rounded):
    exact = True


class Meddling(Rounded):
    def apply(self, model: Model, params: Mapping[str, Any], ctx: Context) -> Model:
        shutil.copy(model.forms["onnx"], model.path / "onnx" / "copy.onnx")
        return super().apply(model, params, ctx)


class Renaming(Rounded):
    def apply(self, model: Model, params: Mapping[str, Any], ctx: Context) -> Model:
        after = super().apply(model, params, ctx)
        (output,) = after.signature.outputs
        renamed = output.model_copy(update={"name": "z"})
        changed = after.signature.model_copy(update={"outputs": (renamed,)})
        return Model.seal(ctx.workdir, changed)


class Anything(Rounded):
    def applies(self, model: Model, target: Target) -> Applicability:
        return Applicability.yes()


@pytest.fixture
def installed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    technique = getattr(request, "param", Rounded)
    monkeypatch.setattr(techniques, "get", lambda name: technique())


@pytest.mark.usefixtures("installed")
class TestHonest(TechniqueConformance):
    technique = "rounded"


class Suite(TechniqueConformance):
    technique = "rounded"


@pytest.mark.parametrize(
    ("installed", "check"),
    [
        (Unseeded, "test_equal_seeds_give_equal_models"),
        (FarOff, "test_every_setting_gives_a_model_that_runs_and_stays_close"),
        (NotExact, "test_every_setting_gives_a_model_that_runs_and_stays_close"),
        (Meddling, "test_leaves_its_input_alone"),
        (Renaming, "test_writes_a_sealed_model_of_the_declared_form"),
        (Anything, "test_refuses_an_unsuitable_model_with_a_reason"),
    ],
    indirect=["installed"],
)
@pytest.mark.usefixtures("installed")
def test_a_broken_promise_is_found(check: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        getattr(Suite(), check)(tmp_path)
