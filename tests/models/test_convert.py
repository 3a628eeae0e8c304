from __future__ import annotations

import logging

import numpy as np
import pytest

from strop.errors import NotApplicable
from strop.models import Model, graph, load, parity
from strop.models.convert import read_network, to_openvino
from strop.models.runner import run
from strop.records import Signature, TensorSpec
from strop.testing import graphs, tflite


def test_names_types_and_numbers_survive(save, tmp_path):
    openvino = pytest.importorskip("openvino", reason="needs the openvino extra")
    rng = np.random.default_rng(0)
    path = save(
        'g (float[N, 4] "input.1", int64[N, 1] "x:0") => (float[N, 3] "a/b:0", float[N, 1] y) {'
        ' y = Cast<to=1>("x:0") h = MatMul("input.1", w) "a/b:0" = Add(h, y) }',
        weights={"w": rng.standard_normal((4, 3)).astype(np.float32)},
    )
    model = load(path, workdir=tmp_path / "model")
    converted = to_openvino(model, tmp_path / "converted")
    assert converted.forms.keys() == {"openvino"}
    assert converted.signature == model.signature
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # some CPUs would take bfloat16
    compiled = openvino.Core().compile_model(str(converted.forms["openvino"]), "CPU", exact)
    assert [port.get_names() for port in compiled.inputs] == [{"input.1"}, {"x:0"}]
    assert [port.get_names() for port in compiled.outputs] == [{"a/b:0"}, {"y"}]
    assert [port.element_type.to_string() for port in compiled.inputs] == ["f32", "i64"]
    arrays = {
        "input.1": rng.standard_normal((2, 4)).astype(np.float32),
        "x:0": np.array([[1], [2]]),
    }
    found = compiled(list(arrays.values()))
    by_name = {name: found[i] for i, name in enumerate(model.signature.output_names)}
    assert parity(run(graph.read(model.forms["onnx"]), arrays), by_name).ok


def test_a_comma_in_a_path_is_no_end_of_it(save, tmp_path):
    pytest.importorskip("openvino", reason="needs the openvino extra")
    model = load(save("g (float[N] x) => (float[N] y) { y = Relu(x) }"), workdir=tmp_path / "a,b")
    assert to_openvino(model, tmp_path / "converted").forms.keys() == {"openvino"}
    named = tflite.write(graphs.linear(), tmp_path / "c,d" / "net,2.tflite")
    assert [port.get_any_name() for port in read_network(named).inputs] == ["main_input.1"]


def test_the_root_logger_stays_as_it_was(save):
    pytest.importorskip("openvino", reason="needs the openvino extra")
    root = logging.getLogger()
    before = root.level, list(root.filters), list(root.handlers)
    read_network(save("g (float[N] x) => (float[N] y) { y = Relu(x) }"))
    assert (root.level, root.filters, root.handlers) == before


def test_weights_keep_their_precision(save, tmp_path):
    pytest.importorskip("openvino", reason="needs the openvino extra")
    weight = np.random.default_rng(0).standard_normal((256, 64)).astype(np.float32)
    path = save(
        "g (float[N, 256] x) => (float[N, 64] y) { y = MatMul(x, w) }", weights={"w": weight}
    )
    model = load(path, workdir=tmp_path / "model")
    converted = to_openvino(model, tmp_path / "converted")
    assert converted.forms["openvino"].with_suffix(".bin").stat().st_size >= weight.nbytes


def test_a_custom_operator_does_not_convert_and_says_so(save, tmp_path):
    pytest.importorskip("openvino", reason="needs the openvino extra")
    path = save("g (float[N] x) => (float[N] y) { y = acme.Fold(x) }", domains={"acme": 1})
    model = load(path, workdir=tmp_path / "model")
    with pytest.raises(NotApplicable, match="Fold") as caught:
        to_openvino(model, tmp_path / "converted")
    assert "\n" not in str(caught.value)


def test_only_an_onnx_form_converts(tmp_path):
    (tmp_path / "module").mkdir()
    (tmp_path / "module" / "module.json").write_text("{}")
    spec = TensorSpec(name="x", dtype="float32", shape=(1,))
    model = Model.seal(tmp_path, Signature(inputs=(spec,), outputs=(spec,)))
    with pytest.raises(NotApplicable, match="onnx form"):
        to_openvino(model, tmp_path / "converted")
