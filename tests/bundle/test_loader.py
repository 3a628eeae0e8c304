from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strop.bundle import load, read_manifest, write
from strop.errors import BundleError, InputError, TrustError
from strop.records import Signature, TensorSpec

from .conftest import altered


@pytest.fixture
def folder(make, tmp_path) -> Path:
    write(tmp_path / "bundle", make())
    return tmp_path / "bundle"


def edit(folder: Path, **changes: Any) -> None:
    document = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**document, **changes}))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_loading_imports_the_engine_alone(folder):
    program = (
        "import sys, numpy as np, strop.bundle\n"
        "def heavy(): return sorted({'torch', 'scipy', 'nncf', 'onnx', 'onnxruntime', 'openvino',"
        " 'pandas', 'rich', 'typer'} & set(sys.modules))\n"
        "print(heavy())\n"
        f"bundle = strop.bundle.load({str(folder)!r})\n"
        "bundle.run({'x.1': np.zeros((1, 4), np.float32)})\n"
        "print(heavy())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["[]", "['onnxruntime']"]


def test_a_flipped_byte_in_the_model_is_refused(folder):
    flip(folder / "model/model.onnx")
    with pytest.raises(BundleError, match=r"'model/model.onnx' has changed"):
        load(folder)


def test_checking_can_be_left_out(folder):
    path = folder / "model/model.onnx"
    edit(folder, files={**read_manifest(folder).files, "model/model.onnx": "0" * 64})
    with load(folder, check=False) as bundle:
        assert bundle.run({"x.1": np.zeros((1, 4), np.float32)})["y"].shape == (1, 3)
    assert path.exists()


def test_a_missing_model_is_refused(folder):
    (folder / "model/model.onnx").unlink()
    with pytest.raises(BundleError, match=r"'model/model.onnx' is missing"):
        load(folder)


def test_a_file_beside_the_model_is_refused(folder):
    (folder / "model/extra.bin").write_bytes(b"")
    with pytest.raises(BundleError, match="not listed"):
        load(folder)


def test_no_bundle_is_bad_input(tmp_path):
    with pytest.raises(InputError, match="is not a bundle"):
        load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is not a bundle"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '"schema"', "{}", '{"schema": 1}', "[" * 100000])
def test_a_damaged_manifest_is_refused(folder, text):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match="damaged"):
        load(folder)


def test_a_newer_schema_asks_for_an_upgrade(folder):
    edit(folder, schema=2, novelty=True)
    with pytest.raises(BundleError, match=r"schema 2.*upgrade strop"):
        load(folder)


@pytest.mark.parametrize(
    "name",
    ["../model.onnx", "/etc/passwd", "model/../../x", "C:/x", "model\\x", "", "./a", "a//b", "a\0"],
)
def test_paths_out_of_the_bundle_are_refused(folder, name):
    edit(folder, files={**read_manifest(folder).files, name: "0" * 64})
    with pytest.raises(BundleError, match="no path inside a bundle"):
        load(folder)


def test_an_artefact_outside_its_folder_is_refused(folder):
    edit(folder, artifact="evidence/sample.npz")
    with pytest.raises(BundleError, match="does not lie in model/"):
        load(folder)


@pytest.mark.parametrize("name", ["model/model.onnx", "model"])
def test_symbolic_links_are_refused(folder, tmp_path, name):
    path = folder / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="symbolic link"):
        load(folder)


def test_a_pipe_is_no_model(folder):
    (folder / "model/model.onnx").unlink()
    os.mkfifo(folder / "model/model.onnx")
    with pytest.raises(BundleError, match="not a plain file"):
        load(folder)


def test_an_exported_program_asks_for_trust(make, tmp_path):
    path = tmp_path / "built" / "model.pt2"
    path.parent.mkdir()
    node = {"metadata": {"stack_trace": 'File "/root/x.py"'}, "name": "relu"}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/models/model.json", json.dumps({"nodes": [node]}))
    contents = make()
    deploy = contents.recipe.deploy.model_copy(update={"engine": "torch"})
    recipe = contents.recipe.model_copy(update={"deploy": deploy})
    write(tmp_path / "bundle", altered(contents, artifact=path, form="exported", recipe=recipe))
    with pytest.raises(TrustError, match="may run code"):
        load(tmp_path / "bundle")
    with zipfile.ZipFile(tmp_path / "bundle/model/model.pt2") as archive:
        graph = json.loads(archive.read("m/models/model.json"))
    assert graph == {"nodes": [{"metadata": {}, "name": "relu"}]}


def test_code_under_the_name_of_a_graph_is_refused(folder, tmp_path):
    """The eager engine reads which Python file to run from any artefact that it is given."""
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(ran)!r}, 'w')\ndef f(): ...\n")
    (folder / "model/model.onnx").write_text(json.dumps({"spec": f"{tmp_path}/evil.py:f"}))
    document = json.loads((folder / "manifest.json").read_text())
    document["recipe"]["deploy"] |= {"engine": "torch", "options": {"trust": True}}
    (folder / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match="loads no artefact like 'onnx'"):
        load(folder, check=False)
    edit(folder, form="exported")
    with pytest.raises(BundleError, match="not of the form 'exported'"):
        load(folder, check=False)
    assert not ran.exists()


def test_an_exported_program_runs_when_trusted(make, tmp_path, weights):
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.from_numpy(weights.copy()))

        def forward(self, x):
            return torch.relu(x @ self.weight)

    program = torch.export.export(
        Net(), (), {"x": torch.zeros(4, 4)}, dynamic_shapes={"x": {0: torch.export.Dim.DYNAMIC}}
    )
    (tmp_path / "built").mkdir()
    torch.export.save(program, tmp_path / "built" / "model.pt2")
    contents = make()
    deploy = contents.recipe.deploy.model_copy(update={"engine": "torch"})
    x = contents.sample_inputs["x.1"]
    contents = altered(
        contents,
        artifact=tmp_path / "built" / "model.pt2",
        form="exported",
        recipe=contents.recipe.model_copy(update={"deploy": deploy}),
        signature=Signature(
            inputs=(TensorSpec(name="x", dtype="float32", shape=("n", 4)),),
            outputs=contents.signature.outputs,
        ),
        sample_inputs={"x": x},
    )
    write(tmp_path / "bundle", contents)
    assert b"stack_trace" not in (tmp_path / "bundle/model/model.pt2").read_bytes()
    with load(tmp_path / "bundle", trust=True, threads=1) as bundle:
        np.testing.assert_allclose(bundle(x=x)["y"], np.maximum(x @ weights, 0), rtol=1e-5)
    done = subprocess.run(
        [sys.executable, "-I", str(tmp_path / "bundle/run.py")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "y float32 [8, 3]\n"


def test_wrong_inputs_are_named(folder):
    with load(folder) as bundle, pytest.raises(InputError, match=r"'x.1' is missing"):
        bundle(x=np.zeros((1, 4), np.float32))


def test_threads(folder):
    with load(folder) as recorded, load(folder, threads=2) as given:
        assert recorded.spec.placement.threads == 1
        assert given.spec.placement.threads == 2
