from __future__ import annotations

import json

import pytest

from strop.errors import InputError, ModelError, TrustError
from strop.models import Model, load

RELU = "g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"no file '.*absent\.onnx'"):
        load(tmp_path / "absent.onnx", workdir=tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("weights.pth", "is a pickle.*weights_only=True"),
        ("pytorch_model.bin", "is a pickle"),
        ("net.pkl", "is a pickle.*pass the object itself to strop.optimize"),
        ("net.joblib", "is a pickle.*file.py:callable"),
        ("net.safetensors", "Hugging Face folder"),
        ("saved_model.pb", "the folder of the SavedModel"),
        ("net.h5", "model.save"),
        ("net.xml", "the ONNX file"),
        ("net.py", "net.py:build"),
        ("net.engine", "compiled from"),
    ],
)
def test_other_formats_get_the_way_out(tmp_path, name, hint):
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(ModelError, match=hint):
        load(tmp_path / name, workdir=tmp_path / "model")


def test_code_is_not_run_without_trust(tmp_path):
    (tmp_path / "net.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(TrustError, match="--trust"):
        load(f"{tmp_path}/net.py:build", workdir=tmp_path / "model")


def test_a_changed_model_directory_is_refused(save, tmp_path):
    model = load(save(RELU), workdir=tmp_path / "model")
    assert load(model.path, workdir=tmp_path / "unused") == model
    model.forms["onnx"].write_bytes(model.forms["onnx"].read_bytes() + b"\n")
    with pytest.raises(ModelError, match="changed since it was sealed"):
        load(model.path, workdir=tmp_path / "unused")


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match="not a strop model directory"):
        load(tmp_path, workdir=tmp_path / "model")


def test_the_model_document_is_plain_and_complete(save, tmp_path):
    model = load(save(RELU), workdir=tmp_path / "model")
    document = json.loads((model.path / "model.json").read_text())
    assert document["digest"] == model.digest
    assert str(tmp_path) not in json.dumps(document)
    assert Model.open(model.path).signature == model.signature


def test_equal_files_give_equal_digests(save, tmp_path):
    one = load(save(RELU), workdir=tmp_path / "one")
    other = load(save(RELU, name="other.onnx"), workdir=tmp_path / "other")
    assert one.digest == other.digest


def test_something_else_is_no_model(tmp_path):
    with pytest.raises(InputError, match="not a dict"):
        load({"weights": 1}, workdir=tmp_path / "model")
