from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from strop import engines, techniques
from strop.errors import NotApplicable
from strop.models import Model, graph, relative_error
from strop.records import Dim, SessionSpec, Signature, TensorSpec
from strop.techniques.trim_padding import TrimPadding
from strop.testing.graphs import Case
from strop.testing.techniques import TechniqueConformance

from . import small_graphs as small

Arrays = dict[str, np.ndarray]

SIZE, WORDS, PLACES = 8, 500, 128
WEIGHTS = {
    "words": small.floats(WORDS, SIZE, seed=1),
    "places": small.floats(PLACES, SIZE, seed=2),
    "mix": small.floats(SIZE, SIZE, seed=3),
    "from": np.array(0),
    "step": np.array(1),
    "inner": np.array([1]),
    "last": np.array([2]),
    "one": np.array(1, np.float32),
    "few": np.array(1e-6, np.float32),
    "far": np.array(-1e4, np.float32),
}
ATTENTION: tuple[tuple[str, list[str], list[str], dict[str, Any]], ...] = (
    ("Shape", ["ids"], ["shape"], {"start": 1, "end": 2}),
    ("Squeeze", ["shape"], ["count"], {}),
    ("Range", ["from", "count", "step"], ["range"], {}),
    ("Gather", ["places", "range"], ["place"], {}),
    ("Gather", ["words", "ids"], ["word"], {}),
    ("Add", ["word", "place"], ["x"], {}),
    ("Cast", ["attention_mask"], ["truth"], {"to": TensorProto.BOOL}),
    ("Cast", ["truth"], ["kept"], {"to": TensorProto.FLOAT}),
    ("Sub", ["one", "kept"], ["dropped"], {}),
    ("Mul", ["dropped", "far"], ["bias"], {}),
    ("Unsqueeze", ["bias", "inner"], ["bias3"], {}),
    ("MatMul", ["x", "mix"], ["query"], {}),
    ("Transpose", ["x"], ["key"], {"perm": [0, 2, 1]}),
    ("MatMul", ["query", "key"], ["match"], {}),
    ("Add", ["match", "bias3"], ["masked"], {}),
    ("Softmax", ["masked"], ["weight"], {"axis": -1}),
    ("MatMul", ["weight", "x"], ["tokens"], {}),
)
POOLING: tuple[tuple[str, list[str], list[str], dict[str, Any]], ...] = (
    ("Unsqueeze", ["kept", "last"], ["kept3"], {}),
    ("Mul", ["tokens", "kept3"], ["used"], {}),
    ("ReduceSum", ["used", "inner"], ["sum"], {"keepdims": 0}),
    ("ReduceSum", ["kept", "inner"], ["number"], {"keepdims": 1}),
    ("Max", ["number", "few"], ["divisor"], {}),
    ("Div", ["sum", "divisor"], ["pooled"], {}),
)


def _spec(name: str, dtype: str, *shape: Dim) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def _case(
    *,
    length: Dim = "length",
    outputs: Sequence[str] = ("tokens", "pooled"),
    mask: str = "int64",
    nodes: Sequence[tuple[str, list[str], list[str], dict[str, Any]]] = ATTENTION + POOLING,
    constants: Mapping[str, np.ndarray] | None = None,
) -> Case:
    """One head of attention over words and places, and the mean over what is not padding."""
    shapes: dict[str, tuple[Dim, ...]] = {
        "tokens": ("n", length, SIZE),
        "pooled": ("n", SIZE),
        "weight": ("n", length, length),
    }
    return Case(
        "text",
        Signature(
            inputs=(_spec("ids", "int64", "n", length), _spec("attention_mask", mask, "n", length)),
            outputs=tuple(_spec(name, "float32", *shapes[name]) for name in outputs),
        ),
        _answer,
        lambda rows, seed: _inputs([5 + (seed + row) % 30 for row in range(rows)], 40),
        tuple(nodes),
        WEIGHTS | dict(constants or {}),
    )


def _answer(arrays: Arrays) -> Arrays:
    ids, kept = arrays["ids"], (arrays["attention_mask"] != 0).astype(np.float64)
    x = WEIGHTS["words"][ids].astype(np.float64) + WEIGHTS["places"][: ids.shape[1]]
    match = x @ WEIGHTS["mix"] @ x.transpose(0, 2, 1) - 1e4 * (1 - kept[:, None, :])
    weight = np.exp(match - match.max(axis=2, keepdims=True))
    tokens = weight / weight.sum(axis=2, keepdims=True) @ x
    number = np.maximum(kept.sum(axis=1, keepdims=True), 1e-6)
    return {"pooled": ((tokens * kept[:, :, None]).sum(axis=1) / number).astype(np.float32)}


def _inputs(lengths: Sequence[int], given: int) -> Arrays:
    ids = np.random.default_rng(len(lengths)).integers(0, WORDS // 50, (len(lengths), given))
    mask = (np.arange(given) < np.array(lengths)[:, None]).astype(np.int64)
    return {"ids": ids, "attention_mask": mask}


def _sealed(proto: onnx.ModelProto, folder: Path) -> Model:
    graph.write(proto, folder / "onnx" / "model.onnx")
    return Model.seal(folder, graph.signature(proto))


def _run(engine: str, model: Model, arrays: Arrays, folder: Path) -> Arrays:
    folder.mkdir()
    artifact = engines.get(engine).build(model, {}, folder)
    spec = SessionSpec(engine=engine, artifact=str(artifact), signature=model.signature)
    with contextlib.closing(engines.open_session(spec)) as session:
        return dict(session.run(arrays))


class TestConformance(TechniqueConformance):
    technique = "trim-padding"
    case = _case(outputs=["pooled"])
    tolerance = 1e-5

    @pytest.fixture(autouse=True)
    def _installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(techniques, "get", lambda name: TrimPadding())


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("length", ["length", None, 40])
@pytest.mark.parametrize("opset", [17, 18])
def test_answers_stay_and_padding_becomes_zero(
    tmp_path: Path, engine: str, length: Dim, opset: int
) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    proto = small.proto_of(_case(length=length).write(tmp_path / "given"))
    proto.opset_import[0].version = opset
    model = _sealed(proto, tmp_path / "in")
    result = small.apply(TrimPadding(), model, tmp_path / "out")
    assert result.signature == model.signature == graph.signature(small.proto_of(result))
    assert result.meta["trimmed_inputs"] == ["ids", "attention_mask"]
    assert result.meta["restored_outputs"] == ["tokens"]
    lengths = [3, 17, 1]
    arrays = _inputs(lengths, 40)
    before = _run(engine, model, arrays, tmp_path / "before")
    after = _run(engine, result, arrays, tmp_path / "after")
    assert relative_error(before["pooled"], after["pooled"]) < 1e-5
    assert before["tokens"].shape == after["tokens"].shape == (3, 40, SIZE)
    for row, used in enumerate(lengths):
        assert relative_error(before["tokens"][row, :used], after["tokens"][row, :used]) < 1e-5
        assert before["tokens"][row, used:].all()
        assert not after["tokens"][row, used:].any()


@pytest.mark.parametrize("mask", ["bool", "int32", "uint8"])
def test_masks_of_other_types(tmp_path: Path, mask: str) -> None:
    model = _case(mask=mask).write(tmp_path / "in")
    result = small.apply(TrimPadding(), model, tmp_path / "out")
    arrays = _inputs([7, 20], 64)
    arrays["attention_mask"] = arrays["attention_mask"].astype(mask)
    before, after = small.run(model, arrays), small.run(result, arrays)
    assert relative_error(before["pooled"], after["pooled"]) < 1e-5


@pytest.mark.parametrize(
    ("bucket", "lengths", "given", "expected"),
    [
        (16, [3, 1], 64, 16),
        (16, [16, 3], 64, 16),
        (16, [3, 17], 64, 32),
        (64, [3, 17], 128, 64),
        (1, [3, 17], 64, 17),
        (16, [35], 40, 40),  # not rounded up beyond what is given
        (16, [3], 10, 10),
        (16, [40], 40, 40),
        (16, [3, 0], 40, 40),  # nothing is known about an example without a token
    ],
)
def test_only_the_needed_positions_are_computed(
    tmp_path: Path, bucket: int, lengths: list[int], given: int, expected: int
) -> None:
    model = _case(outputs=["pooled"]).write(tmp_path / "in")
    result = small.apply(TrimPadding(), model, tmp_path / "out", bucket=bucket)
    proto = small.proto_of(result)
    proto.graph.output.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, None))
    arrays = _inputs(lengths, given)
    outputs = small.Runner(proto).run(arrays)
    assert outputs["weight"].shape == (len(lengths), expected, expected)
    assert relative_error(small.run(model, arrays)["pooled"], outputs["pooled"]) < 1e-5


def test_padding_in_front_is_left_alone(tmp_path: Path) -> None:
    model = _case().write(tmp_path / "in")
    result = small.apply(TrimPadding(), model, tmp_path / "out")
    arrays = _inputs([5, 9], 40)
    arrays["attention_mask"] = arrays["attention_mask"][:, ::-1].copy()
    before, after = small.run(model, arrays), small.run(result, arrays)
    for name in before:
        assert relative_error(before[name], after[name]) < 1e-5


def test_an_example_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    result = small.apply(TrimPadding(), _case().write(tmp_path / "in"), tmp_path / "out")
    arrays = _inputs([5, 38], 40)
    alone = small.run(result, {name: array[:1] for name, array in arrays.items()})
    together = small.run(result, arrays)
    for name in alone:
        assert relative_error(alone[name], together[name][:1]) < 1e-5
    assert TrimPadding.batch_invariant is True
    assert TrimPadding.exact is False


def test_a_size_that_equals_the_length_by_chance_is_not_padded(tmp_path: Path) -> None:
    model = _case(length=SIZE).write(tmp_path / "in")
    result = small.apply(TrimPadding(), model, tmp_path / "out", bucket=1)
    assert result.meta["restored_outputs"] == ["tokens"]
    arrays = _inputs([2, 3], SIZE)
    before, after = small.run(model, arrays), small.run(result, arrays)
    assert relative_error(before["pooled"], after["pooled"]) < 1e-5


def test_an_output_that_the_graph_reads_on_is_restored_for_the_outside_only(
    tmp_path: Path,
) -> None:
    model = _case().write(tmp_path / "in")  # 'pooled' is computed from the output 'tokens'
    proto = small.proto_of(small.apply(TrimPadding(), model, tmp_path / "out"))
    (reader,) = (node for node in proto.graph.node if "used" in node.output)
    assert reader.input[0] != "tokens"
    (writer,) = (node for node in proto.graph.node if "tokens" in node.output)
    assert writer.op_type == "Pad"


def test_bodies_of_control_flow_read_the_cut_inputs(tmp_path: Path) -> None:
    def branch(name: str) -> onnx.GraphProto:
        body = small.node("Gather", ["words", "ids"], [name], name=name)
        info = helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", "length", SIZE))
        return helper.make_graph([body], name, [], [info])

    proto = small.proto_of(_case().write(tmp_path / "given"))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    index = next(i for i, node in enumerate(proto.graph.node) if "word" in node.output)
    chosen = small.node(
        "If", ["yes"], ["word"], then_branch=branch("then"), else_branch=branch("else")
    )
    proto.graph.node[index].CopyFrom(chosen)
    model = _sealed(proto, tmp_path / "in")
    result = small.apply(TrimPadding(), model, tmp_path / "out")
    arrays = _inputs([5, 9], 40)
    before, after = small.run(model, arrays), small.run(result, arrays)
    assert relative_error(before["pooled"], after["pooled"]) < 1e-5


def test_a_graph_made_for_one_length_is_refused(tmp_path: Path) -> None:
    fixed = (*ATTENTION, ("Reshape", ["tokens", "target"], ["pooled"], {}))
    target = {"target": np.array([-1, 5 * SIZE])}
    model = _case(length=5, outputs=["tokens"], nodes=fixed, constants=target).write(tmp_path / "a")
    with pytest.raises(NotApplicable, match="made for one length"):
        small.apply(TrimPadding(), model, tmp_path / "out", bucket=1)


@pytest.mark.parametrize("kind", ["leaks", "inverted"])
def test_a_mask_that_means_something_else_is_refused(tmp_path: Path, kind: str) -> None:
    nodes = list(ATTENTION + POOLING)
    outputs = [entry[2][0] for entry in nodes]
    if kind == "leaks":  # the mean is taken over the padding too
        nodes[outputs.index("used")] = ("Identity", ["tokens"], ["used"], {})
    else:  # 1 is for padding
        nodes[outputs.index("truth")] = ("Equal", ["attention_mask", "from"], ["truth"], {})
    model = _case(nodes=nodes).write(tmp_path / "in")
    assert TrimPadding().applies(model, small.target())  # only trying tells
    with pytest.raises(NotApplicable, match="takes part in the answer"):
        small.apply(TrimPadding(), model, tmp_path / "out")


def test_an_output_with_the_length_elsewhere_is_refused(tmp_path: Path) -> None:
    model = _case(outputs=["weight"], nodes=ATTENTION).write(tmp_path / "in")
    with pytest.raises(NotApplicable, match="'weight' changes its shape"):
        small.apply(TrimPadding(), model, tmp_path / "out")


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ([("ids", "int64", "n", "l")], "contains 'mask'"),
        ([("ids", "int64", "n", "l"), ("mask", "float32", "n", "l")], "contains 'mask'"),
        ([("ids", "int64", "n", "l"), ("mask", "bool", "n", 1, "l")], "contains 'mask'"),
        (
            [("ids", "int64", "n", "l"), ("mask", "bool", "n", "l"), ("Mask2", "bool", "n", "k")],
            "several inputs look like the mask: 'mask', 'Mask2'",
        ),
        ([("ids", "int64", "n", "k"), ("mask", "bool", "n", "l")], "no other input shares"),
        ([("ids", "int64", "n", 1), ("mask", "bool", "n", 1)], "fixed length 1"),
        (
            [
                ("ids", "int64", "n", "l"),
                ("mask", "bool", "n", "l"),
                ("bias", "float32", "n", "l", "l"),
            ],
            "input bias: float32[n, l, l] carries the length at more than dimension 1",
        ),
    ],
)
def test_models_without_a_plain_mask_do_not_apply(
    tmp_path: Path, inputs: list[tuple[Any, ...]], reason: str
) -> None:
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape)
        for name, kind, *shape in inputs
    ]
    proto = helper.make_model(
        helper.make_graph(
            [small.node("Neg", ["ids"], ["y"])],
            "g",
            infos,
            [helper.make_tensor_value_info("y", TensorProto.INT64, inputs[0][2:])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    answer = TrimPadding().applies(_sealed(proto, tmp_path / "in"), small.target())
    assert not answer
    assert reason in answer.reason


def test_what_is_trimmed_is_not_trimmed_again(tmp_path: Path) -> None:
    model = _case().write(tmp_path / "in")
    result = small.apply(TrimPadding(), model, tmp_path / "out")
    assert TrimPadding().applies(result, small.target()).reason == "its padding is trimmed already"


@pytest.mark.parametrize(
    ("length", "buckets"), [("length", (16, 32, 64, 1)), (40, (16, 32, 1)), (16, (1,))]
)
def test_buckets_are_smaller_than_a_fixed_length(
    tmp_path: Path, length: Dim, buckets: tuple[int, ...]
) -> None:
    model = _case(length=length).write(tmp_path / "in")
    (choice,) = TrimPadding().space(model, small.target()).choices
    assert (choice.name, choice.values) == ("bucket", buckets)
