"""Programs of torch.export: opened with trust only, and no other than what they were exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from strop.errors import ModelError, TrustError
from strop.models import Model, load
from strop.models.module_form import open_module
from strop.models.runner import Runner

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    layers = torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)
    return torch.nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)


def save(network, path: Path, rows: int, *, free: bool) -> Path:
    dims = ({0: torch.export.Dim("n")},) if free else None
    program = torch.export.export(network, (torch.zeros(rows, 8),), dynamic_shapes=dims)
    torch.export.save(program, path)
    return path


def answers(model: Model, x: np.ndarray) -> np.ndarray:
    import onnx

    found = Runner(onnx.load(model.forms["onnx"])).run({model.signature.input_names[0]: x})
    return found[model.signature.output_names[0]]


def test_a_program_with_a_free_batch_keeps_it(network, x, tmp_path):
    path = save(network, tmp_path / "net.pt2", 2, free=True)
    model = load(path, workdir=tmp_path / "model", examples={"input": x}, trust=True)
    assert str(model.signature) == "(input: float32[batch, 8]) -> (output: float32[batch, 3])"
    assert model.meta["original_format"] == "torch.export"
    expected = network(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(answers(model, x), expected, rtol=1e-4, atol=1e-5)
    form, module = open_module(model)
    eager = form.run(module, {"input": torch.tensor(x)})["output"].detach().numpy()
    np.testing.assert_allclose(eager, expected, rtol=1e-5, atol=1e-6)


def test_a_program_with_a_fixed_batch_takes_no_other(network, x, tmp_path):
    path = save(network, tmp_path / "net.pt2", 1, free=False)
    model = load(path, workdir=tmp_path / "model", examples={"input": x}, trust=True)
    assert model.signature.inputs[0].shape == (1, 8)
    expected = network(torch.tensor(x[:1])).detach().numpy()
    np.testing.assert_allclose(answers(model, x[:1]), expected, rtol=1e-4, atol=1e-5)


def test_a_program_is_not_opened_without_trust(network, tmp_path):
    path = save(network, tmp_path / "net.pt2", 2, free=True)
    with pytest.raises(TrustError, match=r"'net\.pt2' is an exported program.*--trust"):
        load(path, workdir=tmp_path / "model")


def test_what_is_no_program_ends_in_one_line(tmp_path):
    (tmp_path / "net.pt2").write_bytes(b"PK no program at all")
    with pytest.raises(ModelError, match="cannot be read as an exported program") as caught:
        load(tmp_path / "net.pt2", workdir=tmp_path / "model", trust=True)
    assert "\n" not in str(caught.value)
