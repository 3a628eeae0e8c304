from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from strop.bundle import load, read_manifest, write
from strop.bundle import writer as module
from strop.errors import InputError, StropError

from .conftest import altered, files_of


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_round_trip(make, tmp_path, weights, engine):
    contents = make(engine)
    written = write(tmp_path / "out" / "bundle", contents)
    assert read_manifest(tmp_path / "out" / "bundle") == written
    x = contents.sample_inputs["x.1"]
    with load(tmp_path / "out" / "bundle") as bundle:
        np.testing.assert_allclose(bundle.run({"x.1": x})["y"], x @ weights, rtol=1e-5)
        np.testing.assert_allclose(bundle(**{"x.1": x[:2]})["y"], x[:2] @ weights, rtol=1e-5)
        assert bundle.signature == contents.signature
        assert bundle.claim == contents.claim
    with pytest.raises(StropError, match="closed"):
        bundle.run({"x.1": x})


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_nothing_tells_where_it_was_built(make, tmp_path, engine):
    contents = make(engine)
    write(tmp_path / "bundle", contents)
    for name, content in files_of(tmp_path / "bundle").items():
        for trace in (str(tmp_path), "/root", "/home", "/tmp", "Traceback", 'File "', "__reduce"):
            assert trace.encode() not in content, (name, trace)
    assert read_manifest(tmp_path / "bundle").lineage["model"] == contents.artifact.name
    trials = (tmp_path / "bundle/evidence/trials.jsonl").read_text().splitlines()
    assert json.loads(trials[1])["reason"] == f"ValueError: no {contents.artifact.name}"


def test_names_of_nodes_are_no_paths(make, tmp_path):
    write(tmp_path / "bundle", make(proven=True))
    step = read_manifest(tmp_path / "bundle").recipe.steps[0]
    assert step.params == {"nodes": ["/l/MatMul"]}


def test_openvino_conversion_parameters_are_stripped(make, tmp_path):
    from strop.engines import quiet_telemetry

    quiet_telemetry()
    import openvino

    contents = make("openvino")
    network = openvino.Core().read_model(contents.artifact)
    network.set_rt_info("/opt/secret/model.onnx", ["conversion_parameters", "input_model"])
    network.set_rt_info("/opt/secret/ignored", ["nncf", "quantization", "ignored_scope"])
    network.set_rt_info("8", ["runtime_options", "ACTIVATIONS_SCALE_FACTOR"])
    aside = tmp_path / "noted" / "compiled.xml"
    openvino.save_model(network, aside, compress_to_fp16=False)
    assert b"/opt/secret" in aside.read_bytes()
    write(tmp_path / "bundle", altered(contents, artifact=aside))
    shipped = (tmp_path / "bundle/model/model.xml").read_bytes()
    assert b"/opt/secret" not in shipped
    assert b"ACTIVATIONS_SCALE_FACTOR" in shipped
    with load(tmp_path / "bundle") as bundle:  # model.bin was renamed along
        assert bundle.run(contents.sample_inputs)["y"].shape == (8, 3)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_run_py_needs_the_engine_alone(make, tmp_path, engine):
    write(tmp_path / "bundle", make(engine))
    # -I ignores the environment and the working folder; the finder hides the installed strop.
    program = (
        "import runpy, sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('strop', 'torch', 'nncf', 'onnx', 'scipy'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
        f"runpy.run_path({str(tmp_path / 'bundle' / 'run.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, cwd="/", check=False
    )
    assert (done.returncode, done.stdout) == (0, "y float32 [8, 3]\n"), done.stderr


def test_run_py_fills_a_fixed_batch(make, tmp_path, weights):
    from onnx import TensorProto, helper, numpy_helper, save

    from strop.records import Signature, TensorSpec

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    path = tmp_path / "fixed" / "model.onnx"
    path.parent.mkdir()
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    x = TensorSpec(name="x", dtype="float32", shape=(3, 4))
    y = TensorSpec(name="y", dtype="float32", shape=(3, 3))
    given = make()
    inputs = {"x": given.sample_inputs["x.1"]}
    signature = Signature(inputs=(x,), outputs=(y,))
    contents = altered(given, artifact=path, signature=signature, sample_inputs=inputs)
    write(tmp_path / "bundle", contents)
    command = [sys.executable, "-I", str(tmp_path / "bundle" / "run.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "y float32 [3, 3]\n"


def test_same_contents_give_the_same_files(make, tmp_path):
    contents = make()
    first, second = (write(tmp_path / name, contents) for name in ("a", "b"))
    assert first.files == second.files
    assert first.model_copy(update={"created": second.created}) == second


def test_an_older_bundle_is_replaced(make, tmp_path):
    write(tmp_path / "bundle", make("openvino"))
    write(tmp_path / "bundle", make("onnxruntime"))
    assert read_manifest(tmp_path / "bundle").form == "onnx"
    assert set(files_of(tmp_path / "bundle/model")) == {"model.onnx"}
    assert sorted(path.name for path in tmp_path.iterdir() if "bundle" in path.name) == ["bundle"]


def test_a_folder_of_others_stays(make, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "draft.txt").write_text("years of work")
    with pytest.raises(InputError, match="no bundle"):
        write(tmp_path / "thesis", make())
    assert files_of(tmp_path / "thesis") == {"draft.txt": b"years of work"}


@pytest.mark.parametrize("step", ["write_arrays", "_sync", "_swap"])
def test_a_full_disk_leaves_the_older_bundle_whole(make, tmp_path, monkeypatch, step):
    contents = make()
    folder = tmp_path / "out" / "bundle"
    write(folder, contents)
    before = files_of(folder)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, step, full)
    with pytest.raises(InputError, match="No space left") as caught:
        write(folder, altered(contents, name="another"))
    assert "\n" not in str(caught.value)
    assert files_of(folder) == before
    assert list(folder.parent.iterdir()) == [folder]


def test_a_failed_exchange_puts_the_older_bundle_back(make, tmp_path, monkeypatch):
    contents = make()
    folder = tmp_path / "out" / "bundle"
    write(folder, contents)
    before = files_of(folder)
    rename = Path.rename

    def fail_once(self: Path, target: Path) -> Path:
        if target == folder and not self.name.endswith("-old"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(InputError):
        write(folder, altered(contents, name="another"))
    assert files_of(folder) == before
    assert list(folder.parent.iterdir()) == [folder]


def test_a_read_only_parent_is_one_line(make, tmp_path, monkeypatch):
    def refused(*_: object, **__: object) -> str:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    # Permissions do not stop root, who runs tests in containers.
    monkeypatch.setattr(module.tempfile, "mkdtemp", refused)
    with pytest.raises(InputError, match="Read-only file system"):
        write(tmp_path / "bundle", make())
    assert not (tmp_path / "bundle").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission_is_one_line(make, tmp_path):
    contents = make()
    (tmp_path / "shut").mkdir(mode=0o500)
    with pytest.raises(InputError, match="Permission denied"):
        write(tmp_path / "shut" / "bundle", contents)


def test_code_of_the_users_comes_along(make, tmp_path):
    source = tmp_path / "code.py"
    source.write_text("def halve(arrays):\n    return arrays\ndef f1(outputs, target):\n    ...\n")
    contents = make()
    metric = {"name": "code.py:f1", "function": f"{source}:f1", "sha256": "…", "kind": "set"}
    lineage = {**contents.lineage, "metric": metric}
    manifest = write(
        tmp_path / "bundle",
        altered(contents, preprocess=f"{source}:halve", lineage=lineage),
    )
    assert manifest.preprocess == "preprocess.py:halve"
    assert manifest.lineage["metric"]["function"] == "metric.py:f1"
    assert (tmp_path / "bundle/preprocess.py").read_bytes() == source.read_bytes()
    assert (tmp_path / "bundle/metric.py").read_bytes() == source.read_bytes()
    assert contents.lineage["metric"] != metric


def test_python_objects_are_refused(make, tmp_path):
    contents = make()
    with pytest.raises(StropError, match="Python objects"):
        write(tmp_path / "bundle", altered(contents, scores={"odd": np.array([{}])}))
    assert not (tmp_path / "bundle").exists()


def test_the_artifact_must_be_of_its_form(make, tmp_path):
    with pytest.raises(StropError, match=r"cannot hold 'model.onnx'"):
        write(tmp_path / "bundle", altered(make(), form="openvino"))


def test_the_readme_says_what_is_claimed(make, tmp_path):
    contents = make(proven=True)
    write(tmp_path / "bundle", contents)
    text = (tmp_path / "bundle/README.md").read_text()
    assert str(contents.claim) in text
    assert '"x.1": …' in text
    assert contents.machine.cpu in text
