from __future__ import annotations

import json
import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from strop.errors import InputError, ModelError, TrustError
from strop.models import graph, load, parity
from strop.models.module_form import ModuleForm, instantiate
from strop.models.runner import run

torch = pytest.importorskip("torch", reason="needs the torch extra")
nn = torch.nn

RNG = np.random.default_rng(0)
X = RNG.standard_normal((9, 4)).astype(np.float32)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x, scale=None):
        return self.inner(x) if scale is None else self.inner(x) * scale


class Returns(nn.Module):
    """Returns whatever `pack` makes of two tensors."""

    def __init__(self, pack) -> None:
        super().__init__()
        self.pack = pack
        self.inner = nn.Linear(4, 3)

    def forward(self, x):
        y = self.inner(x)
        return self.pack(y, torch.relu(y))


@dataclass
class Pair:
    first: object
    second: object
    note: str = "no tensor"


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, ids, mask):
        states = self.layer(self.table(ids), src_key_padding_mask=mask == 0)
        return {"logits": self.head(states[:, 0]), "states": states}


class Opaque(nn.Module):
    """Leaves torch halfway, so that no exporter sees through it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(1.0, 5.0))

    def forward(self, x):
        return torch.from_numpy(np.sort((x * self.weight).detach().numpy(), axis=1))


def first(y, z):
    return (y, z)


def both(y, z):
    return {"logits": y, "probabilities.0": z}


def nested(y, z):
    return {"y": y, "hidden": (y, z), "cache": object(), "nothing": None}


def as_class(y, z):
    return Pair(y, z)


def test_a_module_gets_an_onnx_form_with_a_free_batch(tmp_path):
    module = Linear().eval()
    model = load(module, workdir=tmp_path / "model", examples={"x": X})
    assert str(model.signature) == "(x: float32[batch, 4]) -> (output: float32[batch, 3])"
    assert model.forms.keys() == {"onnx", "module"}
    assert model.meta["opset"] in graph.OPSETS
    assert model.meta["was_training"] is False
    found = run(graph.read(model.forms["onnx"]), {"x": X})
    with torch.no_grad():
        assert parity({"output": module(torch.tensor(X)).numpy()}, found).ok


@pytest.mark.parametrize(
    ("pack", "names"),
    [
        (first, ("output", "output_1")),
        (both, ("logits", "probabilities.0")),
        (nested, ("y", "hidden.0", "hidden.1")),
        (as_class, ("first", "second")),
    ],
)
def test_outputs_are_named(tmp_path, pack, names):
    model = load(Returns(pack).eval(), workdir=tmp_path / "model", examples={"x": X})
    assert model.signature.output_names == names
    assert "onnx" in model.forms, model.meta.get("export_error")
    assert tuple(run(graph.read(model.forms["onnx"]), {"x": X})) == names


def test_output_names_rename_or_select(tmp_path):
    module = Returns(both).eval()
    renamed = load(
        module, workdir=tmp_path / "a", examples={"x": X}, output_names=["scores:0", "p"]
    )
    assert renamed.signature.output_names == ("scores:0", "p")
    selected = load(
        module, workdir=tmp_path / "b", examples={"x": X}, output_names=["probabilities.0"]
    )
    assert selected.signature.output_names == ("probabilities.0",)
    expected = run(graph.read(renamed.forms["onnx"]), {"x": X})["p"]
    found = run(graph.read(selected.forms["onnx"]), {"x": X})["probabilities.0"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    with pytest.raises(ModelError, match="3 output names are given, but the module returns 2"):
        load(module, workdir=tmp_path / "c", examples={"x": X}, output_names=["a", "b", "c"])
    with pytest.raises(ModelError, match="names repeat"):
        load(module, workdir=tmp_path / "d", examples={"x": X}, output_names=["a", "a"])


def test_the_length_of_tokens_is_free_where_the_module_allows(tmp_path):
    module = Tokens().eval()
    examples = {"ids": RNG.integers(0, 50, (6, 12)), "mask": np.ones((6, 12), np.int64)}
    model = load(module, workdir=tmp_path / "model", examples=examples)
    assert model.signature.inputs[0].shape == ("batch", "ids_length")
    assert model.signature.inputs[1].shape == ("batch", "ids_length")
    assert str(model.signature.outputs[1]) == "states: float32[batch, ids_length, 16]"
    other = {"ids": RNG.integers(0, 50, (3, 7)), "mask": np.ones((3, 7), np.int64)}
    other["mask"][1, 4:] = 0
    with torch.no_grad():
        expected = module(*(torch.tensor(a) for a in other.values()))
    found = run(graph.read(model.forms["onnx"]), other)
    assert parity({n: t.numpy() for n, t in expected.items()}, found).ok


def test_shapes_stand_in_for_examples_and_name_free_axes(tmp_path):
    class Sum(nn.Module):
        def forward(self, x):
            return x.sum(dim=1)

    model = load(Sum().eval(), workdir=tmp_path / "model", shapes={"x": [1, "frames", 4]})
    assert str(model.signature) == "(x: float32[batch, frames, 4]) -> (output: float32[batch, 4])"
    tokens = load(
        Tokens().eval(), workdir=tmp_path / "tokens", shapes={"ids": [1, 12], "mask": [1, 12]}
    )
    assert tokens.signature.inputs[0].dtype == "int64"


def test_a_module_needs_examples_named_after_its_arguments(tmp_path):
    with pytest.raises(ModelError, match="there are none; give data, or the shapes of x"):
        load(Linear(), workdir=tmp_path / "a")
    with pytest.raises(ModelError, match=r"takes \(x, scale\) but the examples hold image.*x\)"):
        load(Linear(), workdir=tmp_path / "b", examples={"image": X})
    with pytest.raises(ModelError, match="rename or remove"):
        load(Linear(), workdir=tmp_path / "c", examples={"x": X, "extra": X})


def test_arrays_that_are_no_inputs_are_passed_over(tmp_path):
    examples = {"x": X, "target": X[:, 0], "group": np.arange(9), "slice:old": X[:, 0] > 0}
    model = load(Linear().eval(), workdir=tmp_path / "model", examples=examples)
    assert model.signature.input_names == ("x",)


def test_a_failing_forward_names_the_users_line(tmp_path):
    with pytest.raises(ModelError, match=r"x: float32\[2, 2\].*test_module_importer\.py:\d+"):
        load(Linear().eval(), workdir=tmp_path / "model", examples={"x": X[:, :2]})


def test_a_module_that_no_exporter_takes_keeps_its_module_form(tmp_path):
    lines: list[str] = []
    module = Opaque().eval()
    model = load(module, workdir=tmp_path / "m", examples={"x": X}, emit=lines.append)
    assert model.forms.keys() == {"module"}
    assert "test_module_importer.py:" in model.meta["export_error"]
    assert "\n" not in model.meta["export_error"]
    assert any("no ONNX form" in line for line in lines)
    assert str(model.signature) == "(x: float32[batch, 4]) -> (output: float32[batch, 4])"


def test_values_that_a_tracer_would_freeze_do_not_pass(tmp_path):
    class Frozen(nn.Module):
        def forward(self, x):
            return x * float(x.detach().numpy().max())

    model = load(Frozen().eval(), workdir=tmp_path / "model", examples={"x": X})
    assert "onnx" not in model.forms


def test_the_mode_of_the_users_module_is_restored(tmp_path):
    module = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).train()
    module[0].eval()
    lines: list[str] = []
    model = load(module, workdir=tmp_path / "m", examples={"input": X}, emit=lines.append)
    assert [part.training for part in module.modules()] == [True, False, True]
    assert model.meta["was_training"] is True
    assert any("training mode" in line for line in lines)
    found = run(graph.read(model.forms["onnx"]), {"input": X})  # no dropout in it
    with torch.no_grad():
        assert parity({"output": module[0](torch.tensor(X)).numpy()}, found).ok


def test_the_pickle_makes_the_module_again(tmp_path):
    module = Linear().eval()
    model = load(module, workdir=tmp_path / "model", examples={"x": X})
    assert model.source is not None
    assert model.source.spec is None
    again = instantiate(model.source)
    form = ModuleForm.read(model.forms["module"])
    with torch.no_grad():
        found = form.run(again, {"x": torch.tensor(X)})["output"]
        assert torch.equal(found, module(torch.tensor(X)))
    assert form.live
    assert model.source.payload not in (None, b"")


def test_equal_weights_give_equal_digests_and_others_others(tmp_path):
    torch.manual_seed(0)
    one, other = Linear().eval(), Linear().eval()
    first_time = load(one, workdir=tmp_path / "a", examples={"x": X})
    second_time = load(one, workdir=tmp_path / "b", examples={"x": X})
    assert first_time.digest == second_time.digest
    assert load(other, workdir=tmp_path / "c", examples={"x": X}).digest != first_time.digest


def test_exporters_say_nothing(tmp_path, capfd, caplog):
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        load(Tokens().eval(), workdir=tmp_path / "a", shapes={"ids": [1, 12], "mask": [1, 12]})
        load(Opaque().eval(), workdir=tmp_path / "b", examples={"x": X})
    assert not [record for record in caplog.records if record.name.startswith("torch.onnx")]
    assert not [warning for warning in caught if "onnx" in str(warning.filename)]
    os.write(1, b"still there")
    assert tuple(capfd.readouterr()) == ("still there", "")


FILE = """
import torch
from neighbour import WIDTH
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(4, WIDTH)
    def forward(self, image):
        return self.inner(image)
def build():
    torch.manual_seed(0)
    return Net()
def broken():
    raise KeyError("weights")
def number():
    return 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("WIDTH = 3\n")
    (tmp_path / "my net.py").write_text(FILE)
    return tmp_path / "my net.py"


def test_a_file_is_imported_with_its_neighbours(file, tmp_path):
    model = load(f"{file}:build", workdir=tmp_path / "m", examples={"image": X}, trust=True)
    assert str(model.signature) == "(image: float32[batch, 4]) -> (output: float32[batch, 3])"
    assert model.source is not None
    assert model.source.spec == f"{file}:build"
    assert model.meta["was_training"] is True
    document = json.loads(model.forms["module"].read_text())
    assert document["live"] is False
    assert document["inputs"] == ["image"]
    assert load(model.path, workdir=tmp_path / "unused", trust=True).source == model.source
    with pytest.raises(TrustError, match="names Python code"):
        load(model.path, workdir=tmp_path / "unused")


def test_a_class_is_a_callable_too(file, tmp_path):
    model = load(f"{file}:Net", workdir=tmp_path / "m", examples={"image": X}, trust=True)
    assert model.meta["class"] == "Net"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent", "'absent' is not there"),
        ("broken", r"KeyError: 'weights' \(my net\.py:\d+\)"),
        ("number", "gives a int"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(file, tmp_path, name, reason):
    with pytest.raises(InputError, match=reason):
        load(f"{file}:{name}", workdir=tmp_path / "m", examples={"image": X}, trust=True)


def test_a_class_instead_of_an_instance_is_explained(tmp_path):
    with pytest.raises(ModelError, match="pass an instance"):
        load(Linear, workdir=tmp_path / "model", examples={"x": X})
