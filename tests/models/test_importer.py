from __future__ import annotations

import json
import pickle
import sys
import zipfile
from types import SimpleNamespace

import pytest

from strop.errors import InputError, ModelError, TrustError
from strop.models import Model, load
from strop.records import Signature

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


@pytest.mark.parametrize("name", ["net.onnx", "net.tflite", "net.dat", "net"])
def test_a_pickle_is_known_whatever_it_is_called(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps({"weights": [1.0]}))
    with pytest.raises(ModelError, match=r"is a pickle.*pass the object itself"):
        load(tmp_path / name, workdir=tmp_path / "model")
    with zipfile.ZipFile(tmp_path / name, "w") as archive:  # as torch.save writes it
        archive.writestr("net/data.pkl", pickle.dumps({"weights": [1.0]}))
    with pytest.raises(ModelError, match=r"is a pickle.*weights_only=True"):
        load(tmp_path / name, workdir=tmp_path / "model")
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("net.txt", "no pickle")
    with pytest.raises(ModelError) as caught:
        load(tmp_path / name, workdir=tmp_path / "model")
    assert "pickle" not in str(caught.value)


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


def test_a_keras_whose_safe_mode_is_none_opens_nothing(tmp_path, monkeypatch):
    (tmp_path / "net.keras").write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "keras", SimpleNamespace(__version__="3.13.1"))
    with pytest.raises(ModelError, match=r"Keras 3\.13\.1 may run code.*keras>=3\.14"):
        load(tmp_path / "net.keras", workdir=tmp_path / "model")


def hostile_module(folder, **form):
    """A sealed model whose module form names a file that tells when it is run."""
    code = folder.parent / "code.py"
    code.write_text("raise SystemExit('it ran')")
    document = {"schema": 1, "spec": f"{code}:build", "live": False, "digest": "", **form}
    document |= {"inputs": ["x"], "outputs": ["y"], "keys": ["output"]}
    (folder / "module").mkdir(parents=True)
    (folder / "module" / "module.json").write_text(json.dumps(document))
    spec = {"dtype": "float32", "shape": ["n", 4]}
    signature = {"inputs": [{"name": "x", **spec}], "outputs": [{"name": "y", **spec}]}
    return Model.seal(folder, Signature.from_dict(signature)).path


@pytest.mark.parametrize(
    "plan", [[], [{"op": "weights"}], [{"op": "student", "spec": "code.py:build"}]]
)
def test_a_sealed_model_that_names_code_needs_trust(tmp_path, plan):
    folder = hostile_module(tmp_path / "model", plan=plan)
    with pytest.raises(TrustError, match=r"module\.json.*--trust"):
        load(folder, workdir=tmp_path / "unused")
    assert load(folder, workdir=tmp_path / "unused", trust=True).forms.keys() == {"module"}


def test_code_in_a_plan_is_not_hidden_by_a_module_that_is_data(tmp_path):
    plan = [{"op": "weights"}, {"op": "student", "spec": "code.py:build"}]
    folder = hostile_module(tmp_path / "model", spec=str(tmp_path / "net.keras"), plan=plan)
    with pytest.raises(TrustError, match="names Python code"):
        load(folder, workdir=tmp_path / "unused")


def test_a_module_that_is_data_needs_no_trust(tmp_path):
    folder = hostile_module(tmp_path / "model", spec=str(tmp_path / "net.keras"))
    assert load(folder, workdir=tmp_path / "unused").source is not None


def test_a_sealed_model_that_names_an_exported_program_needs_trust(tmp_path):
    folder = hostile_module(tmp_path / "model", spec=str(tmp_path / "net.pt2"))
    with pytest.raises(TrustError, match=r"'net\.pt2' is an exported program"):
        load(folder, workdir=tmp_path / "unused")


def test_a_plan_that_starts_from_a_graph_is_data(tmp_path):
    folder = hostile_module(tmp_path / "model", spec=None, plan=[{"op": "convert-onnx"}])
    assert load(folder, workdir=tmp_path / "unused").source is None


def test_a_link_in_a_model_directory_is_refused(save, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("the user's own")
    folder = load(save(RELU), workdir=tmp_path / "model").path
    (folder / "onnx" / "more.data").symlink_to(secret)
    with pytest.raises(ModelError, match=r"symbolic link, 'onnx/more\.data'"):
        load(folder, workdir=tmp_path / "unused")


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"signature": 1, "digest": "", "meta": {}}', "[" * 100_000]
)
def test_a_damaged_document_ends_in_one_line(save, tmp_path, text):
    folder = load(save(RELU), workdir=tmp_path / "model").path
    (folder / "model.json").write_text(text)
    with pytest.raises(ModelError, match="not a strop model directory") as caught:
        load(folder, workdir=tmp_path / "unused")
    assert "\n" not in str(caught.value)
