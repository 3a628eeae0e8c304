from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from strop.errors import ModelError
from strop.models import graph, load
from strop.models.runner import run

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((4, 3)).astype(np.float32)


def test_a_plain_graph_becomes_a_sealed_model(save, tmp_path):
    path = save("g (float[N, 4] x) => (float[N, 3] y) { y = MatMul(x, w) }", weights={"w": WEIGHT})
    model = load(path, workdir=tmp_path / "model")
    assert str(model.signature) == "(x: float32[N, 4]) -> (y: float32[N, 3])"
    assert model.forms.keys() == {"onnx"}
    assert model.meta["changes"] == []
    assert (model.meta["original_opset"], model.meta["opset"]) == (17, 17)
    assert load(model.path, workdir=tmp_path / "unused").digest == model.digest


def test_names_are_kept_exactly(save, tmp_path):
    path = save(
        'g (float[N, 4] "input.1", int64[N, 1] "serving_default_input_2:0")'
        ' => (float[N, 3] "scope/out:0") {'
        ' h = MatMul("input.1", "layer/w:0") c = Cast<to=1>("serving_default_input_2:0")'
        ' "scope/out:0" = Add(h, c) }',
        opset=9,
        ir=4,
        weights={"layer/w:0": WEIGHT},
    )
    model = load(path, workdir=tmp_path / "model")
    assert model.signature.input_names == ("input.1", "serving_default_input_2:0")
    assert model.signature.output_names == ("scope/out:0",)
    assert model.meta["opset"] == 17


@pytest.mark.parametrize(
    ("declared", "name"),
    [("int32", "int32"), ("bool", "bool"), ("float16", "float16"), ("double", "float64"),
     ("string", "str"), ("uint8", "uint8"), ("bfloat16", "bfloat16")],
)  # fmt: skip
def test_every_type_keeps_its_name_and_symbols(save, tmp_path, declared, name):
    path = save(
        f"g ({declared}[B, 2, length] x) => ({declared}[B, 2, length] y) {{ y = Identity(x) }}"
    )
    model = load(path, workdir=tmp_path / "model")
    assert str(model.signature.inputs[0]) == f"x: {name}[B, 2, length]"
    assert str(model.signature.outputs[0]) == f"y: {name}[B, 2, length]"


def test_an_opset_7_graph_with_weights_as_inputs_is_brought_up_to_date(save, tmp_path):
    path = save(
        """g (float[N, 4] x, float[4, 3] w, float[3] b) => (float[N, 3] y, float[3] s) {
            h = Gemm(x, w, b)
            d = Dropout<ratio = 0.5>(h)
            z = Unsqueeze<axes = [2]>(d)
            q = Squeeze<axes = [2]>(z)
            y = Softmax<axis = 1>(q)
            s = ReduceSum<axes = [0], keepdims = 0>(y)
        }""",
        opset=7,
        ir=3,
        weights={"w": WEIGHT, "b": np.ones(3, np.float32)},
    )
    before = graph.read(path)
    model = load(path, workdir=tmp_path / "model")
    after = graph.read(model.forms["onnx"])
    assert model.signature.input_names == ("x",)
    assert (graph.default_opset(after), after.ir_version) == (17, 8)
    assert model.meta["changes"] == [
        "2 weights declared as inputs are plain weights now",
        "opset 7 converted to 17",
    ]
    x = RNG.standard_normal((5, 4)).astype(np.float32)
    expected, found = run(before, {**_weights(before), "x": x}), run(after, {"x": x})
    np.testing.assert_allclose(found["y"], expected["y"], rtol=1e-6)


def test_a_newer_opset_comes_down_and_a_supported_one_stays(save, tmp_path):
    text = "g (float[N, 4] x) => (float[N, 3] y) { h = MatMul(x, w) y = Relu(h) }"
    for opset, expected in ((24, 21), (22, 21), (21, 21), (19, 19)):
        path = save(text, opset=opset, ir=10, weights={"w": WEIGHT})
        model = load(path, workdir=tmp_path / f"model{opset}")
        assert model.meta["opset"] == expected
        assert graph.read(model.forms["onnx"]).ir_version <= 10


def test_an_operator_that_only_a_newer_opset_has_is_refused_with_the_way_out(save, tmp_path):
    path = save("g (float[N, 4] x) => (float[N, 4] y) { y = Swish(x) }", opset=24, ir=10)
    with pytest.raises(
        ModelError, match=r"opset 24 and cannot be converted to 21.*export it again"
    ):
        load(path, workdir=tmp_path / "model")


def test_an_ancient_opset_is_refused(save, tmp_path):
    path = save("g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }", opset=6, ir=3)
    with pytest.raises(ModelError, match="opset 6, older than 7"):
        load(path, workdir=tmp_path / "model")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("g (float[N] x) => (float[N] y) { y = Add(x, missing) }", "missing"),
        ("g (float[N] x) => (float[N] y) { y = NoSuchOperator(x) }", "NoSuchOperator"),
        ("g (float[N] x) => (float[N] y) { z = Relu(x) }", "'?y'?"),
    ],
)
def test_an_invalid_graph_is_refused_in_one_line(save, tmp_path, text, reason):
    with pytest.raises(ModelError, match=reason) as caught:
        load(save(text), workdir=tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_an_output_that_is_no_tensor_is_refused(make, tmp_path):
    proto = make("g (float[N] x) => (y) { y = SequenceConstruct(x) }")
    sequence = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    proto.graph.output[0].CopyFrom(sequence)
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="'y' is no tensor but a value of the kind 'sequence'"):
        load(path, workdir=tmp_path / "model")


def test_constants_become_weights_in_subgraphs_too(save, tmp_path):
    path = save(
        """g (bool[1] c, float[3] x) => (float[3] y) {
            k = Constant<value = float[3] {1, 1, 1}>()
            h = Add(x, k)
            y = If(c) <
                then_branch = a () => (float[3] t) {
                    two = Constant<value_float = 2.0>()
                    t = Mul(h, two)
                },
                else_branch = b () => (float[3] e) { e = Neg(h) }
            >
        }"""
    )
    model = load(path, workdir=tmp_path / "model")
    proto = graph.read(model.forms["onnx"])
    assert "Constant" not in graph.operators(proto)
    assert model.meta["control_flow"] is True
    assert [t.name for t in proto.graph.initializer] == ["k"]
    x = np.array([1, 2, 3], np.float32)
    assert run(proto, {"c": np.array([True]), "x": x})["y"].tolist() == [4, 6, 8]
    assert run(proto, {"c": np.array([False]), "x": x})["y"].tolist() == [-2, -3, -4]


def test_a_loop_of_an_old_opset_is_converted_inside(save, tmp_path):
    path = save(
        """g (float[2] x) => (float[2] y) {
            n = Constant<value = int64 {3}>()
            go = Constant<value = bool {1}>()
            y = Loop(n, go, x) <body = b (int64 i, bool c, float[2] v) => (bool d, float[2] u) {
                d = Identity(c)
                r = Unsqueeze<axes = [0]>(v)
                q = Squeeze<axes = [0]>(r)
                u = Add(q, q)
            }>
        }""",
        opset=11,
        ir=6,
    )
    model = load(path, workdir=tmp_path / "model")
    proto = graph.read(model.forms["onnx"])
    assert graph.default_opset(proto) == 17
    assert run(proto, {"x": np.array([1, 2], np.float32)})["y"].tolist() == [8, 16]


def test_local_functions_are_inlined(tmp_path):
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[N, 4] x) => (float[N, 4] y) { h = local.twice(x) y = local.twice(h) }
        <domain: "local", opset_import: ["": 17]>
        twice (a) => (b) { b = Add(a, a) }"""
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    model = load(path, workdir=tmp_path / "model")
    after = graph.read(model.forms["onnx"])
    assert not after.functions
    assert graph.operators(after) == {"Add": 2}
    assert model.meta["custom_domains"] == []
    assert run(after, {"x": np.ones((1, 4), np.float32)})["y"].tolist() == [[4, 4, 4, 4]]


def test_a_custom_operator_is_kept_and_noted(save, tmp_path):
    path = save(
        "g (float[N, 4] x) => (float[N, 4] y) { h = acme.Fold<size = 3>(x) y = Relu(h) }",
        opset=11,
        ir=6,
        domains={"acme": 2},
    )
    lines: list[str] = []
    model = load(path, workdir=tmp_path / "model", emit=lines.append)
    proto = graph.read(model.forms["onnx"])
    assert model.meta["custom_domains"] == ["acme"]
    assert any("acme" in line for line in lines)
    (fold,) = [node for node in proto.graph.node if node.domain == "acme"]
    assert fold.attribute[0].i == 3
    assert {o.domain: o.version for o in proto.opset_import} == {"": 17, "acme": 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s = Constant<value = float {0.1}>() z = Constant<value = uint8 {0}>()"
         " q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)", True),
        ("q, s, z = DynamicQuantizeLinear(x) y = DequantizeLinear(q, s, z)", True),
        ("y = Relu(x)", False),
    ],
)  # fmt: skip
def test_quantised_graphs_are_recognised(save, tmp_path, text, expected):
    path = save(f"g (float[N, 4] x) => (float[N, 4] y) {{ {text} }}")
    assert load(path, workdir=tmp_path / "model").meta["quantised"] is expected


def test_luggage_is_left_behind(make, tmp_path):
    proto = make("g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }")
    proto.metadata_props.add(key="trace", value="/home/someone")
    proto.graph.node[0].metadata_props.add(key="trace", value="/home/someone")
    proto.training_info.add().initialization.name = "someone"
    proto.doc_string = "someone"
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    model = load(path, workdir=tmp_path / "model")
    assert b"someone" not in model.forms["onnx"].read_bytes()


def test_every_node_gets_a_name_of_its_own(make, tmp_path):
    proto = make("g (float[N] x) => (float[N] y) { a = Relu(x) b = Neg(a) c = Abs(b) y = Neg(c) }")
    for node, name in zip(proto.graph.node, ("same", "", "same", "Neg_0"), strict=True):
        node.name = name
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    after = graph.read(load(path, workdir=tmp_path / "model").forms["onnx"])
    names = [node.name for node in after.graph.node]
    assert len(set(names)) == 4
    assert names[0] == "same"
    assert names[3] == "Neg_0"
    assert all(names)


def test_a_random_graph_is_converted_without_comparing(save, tmp_path):
    path = save(
        "g (float[N, 4] x) => (float[N, 4] y) { r = RandomNormalLike(x) s = Softmax<axis=1>(r)"
        " y = Add(x, s) }",
        opset=11,
        ir=6,
    )
    assert load(path, workdir=tmp_path / "model").meta["opset"] == 17


def test_a_conversion_that_changes_the_outputs_is_refused(save, tmp_path, monkeypatch):
    # Softmax meant "flatten from the axis" before opset 13; a mere renumbering is wrong.
    monkeypatch.setattr("strop.models.normal._same_operators", lambda *_: True)
    path = save(
        "g (float[N, 4, 5] x) => (float[N, 4, 5] y) { h = Softmax<axis=1>(x) y = Neg(h) }",
        opset=11,
        ir=6,
    )
    with pytest.raises(ModelError, match=r"changes the outputs.*first at 'h'"):
        load(path, workdir=tmp_path / "model")


def test_shapes_must_name_inputs_of_the_right_rank(save, tmp_path):
    path = save("g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }")
    with pytest.raises(ModelError, match="'z', which is no input; inputs: x"):
        load(path, workdir=tmp_path / "a", shapes={"z": [1, 4]})
    with pytest.raises(ModelError, match=r"1x4x4 is given, but the input is x: float32\[N, 4\]"):
        load(path, workdir=tmp_path / "b", shapes={"x": [1, 4, 4]})


@pytest.mark.parametrize(
    "name",
    ["squeezenet", "shufflenet"]
    + [
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50",
                     "vgg19", "zfnet512")
    ],
)  # fmt: skip
def test_real_networks_of_opset_9_import(tmp_path, name):
    model = load(LIGHT / f"light_{name}.onnx", workdir=tmp_path / "model")
    assert (model.meta["original_opset"], model.meta["opset"]) == (9, 17)
    assert model.meta["batch"] == {"declared": 1, "freed": True, "reason": ""}
    assert len(model.signature.inputs) == 1
    rows = np.zeros((2, 3, 224, 224), np.float32)
    (output,) = run(
        graph.read(model.forms["onnx"]), {model.signature.input_names[0]: rows}
    ).values()
    assert output.shape[:2] == (2, 1000)


def _weights(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
