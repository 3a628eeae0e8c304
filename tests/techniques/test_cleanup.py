from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from strop.errors import NotApplicable
from strop.models import Model, graph, relative_error
from strop.techniques.cleanup import Cleanup

from . import small_graphs as small
from .small_graphs import node


def cleaned(model: Model, folder: Path) -> Model:
    """The model after the clean-up; its outputs, border and files are held against the original."""
    result = small.apply(Cleanup(), model, folder)
    arrays = {
        spec.name: small.floats(3, *spec.shape[1:], seed=7) for spec in model.signature.inputs
    }
    before, after = small.run(model, arrays), small.run(result, arrays)
    assert all(relative_error(before[name], after[name]) < 1e-5 for name in before)
    assert result.signature == model.signature == graph.signature(small.proto_of(result))
    assert sorted(entry.name for entry in result.path.iterdir()) == ["model.json", "onnx"]
    assert result.meta["verified"] is True
    assert result.meta["producer"] == "test"
    assert result.meta["operators_after"] == sum(small.operators(result).values())
    return result


def chain(folder, nodes, constants, shape, **options):
    return small.seal(
        folder,
        nodes,
        constants,
        inputs={"input.1": ("rows", *shape)},
        outputs={"out:0": options.pop("output", None)},
        **options,
    )


def test_dead_duplicate_and_idle_nodes_go(tmp_path: Path) -> None:
    nodes = [
        node("Identity", ["input.1"], ["a"]),
        node("Dropout", ["a"], ["b"]),
        node("Relu", ["b"], ["c"]),
        node("Relu", ["b"], ["d"]),
        node("Exp", ["b"], ["unused"]),
        node("Add", ["one", "one"], ["two"]),
        node("Add", ["c", "d"], ["e"]),
        node("Mul", ["e", "two"], ["out:0"]),
    ]
    model = chain(tmp_path / "in", nodes, {"one": 1.0}, (4,), output=("rows", 4))
    result = cleaned(model, tmp_path / "out")
    assert small.operators(result) == {"Relu": 1, "Add": 1, "Mul": 1}
    assert (result.meta["operators_before"], result.meta["operators_after"]) == (8, 3)


def test_pad_batch_norm_and_scale_fold_into_the_convolution(tmp_path: Path) -> None:
    nodes = [
        node("Pad", ["input.1", "pads"], ["a"]),
        node("Conv", ["a", "w"], ["b"]),
        node("BatchNormalization", ["b", "g", "beta", "mean", "var"], ["c"]),
        node("Mul", ["c", "k"], ["out:0"]),
    ]
    constants = {
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "w": small.floats(4, 3, 3, 3),
        "g": small.floats(4, seed=1),
        "beta": small.floats(4, seed=2),
        "mean": small.floats(4, seed=3),
        "var": np.abs(small.floats(4, seed=4)) + 0.5,
        "k": small.floats(1, 4, 1, 1, seed=5),
    }
    model = chain(tmp_path / "in", nodes, constants, (3, 6, 6), output=("rows", 4, 6, 6))
    assert small.operators(cleaned(model, tmp_path / "out")) == {"Conv": 1}


def test_layer_norm_becomes_one_operator(tmp_path: Path) -> None:
    nodes = [
        node("ReduceMean", ["input.1"], ["m"], axes=[-1]),
        node("Sub", ["input.1", "m"], ["d"]),
        node("Pow", ["d", "two"], ["s"]),
        node("ReduceMean", ["s"], ["v"], axes=[-1]),
        node("Add", ["v", "epsilon"], ["ve"]),
        node("Sqrt", ["ve"], ["deviation"]),
        node("Div", ["d", "deviation"], ["q"]),
        node("Mul", ["q", "scale"], ["r"]),
        node("Add", ["r", "bias"], ["out:0"]),
    ]
    constants = {
        "two": 2.0,
        "epsilon": 1e-5,
        "scale": small.floats(8),
        "bias": small.floats(8, seed=1),
    }
    model = chain(tmp_path / "in", nodes, constants, (5, 8), output=("rows", 5, 8))
    assert small.operators(cleaned(model, tmp_path / "out")) == {"LayerNormalization": 1}


def test_a_reshape_of_a_reshape_and_a_computed_target_are_one_reshape(tmp_path: Path) -> None:
    nodes = [
        node("Reshape", ["input.1", "flat"], ["a"]),
        node("Shape", ["input.1"], ["s"], end=1),
        node("Concat", ["s", "tail"], ["target"], axis=0),
        node("Reshape", ["a", "target"], ["b"]),
        node("Relu", ["b"], ["out:0"]),
    ]
    constants = {"flat": np.array([-1, 4]), "tail": np.array([2, 6])}
    model = chain(tmp_path / "in", nodes, constants, (3, 4), output=("rows", 2, 6))
    result = cleaned(model, tmp_path / "out")
    assert small.operators(result) == {"Reshape": 1, "Relu": 1}


def test_a_reshape_that_copies_a_dimension_is_not_skipped_over(tmp_path: Path) -> None:
    nodes = [
        node("Reshape", ["input.1", "flat"], ["a"]),
        node("Reshape", ["a", "copying"], ["out:0"]),
        node("Exp", ["input.1"], ["unused"]),
    ]
    constants = {"flat": np.array([-1, 4]), "copying": np.array([0, 2, 2])}
    model = chain(tmp_path / "in", nodes, constants, (3, 4), output=(None, 2, 2))
    assert small.operators(cleaned(model, tmp_path / "out")) == {"Reshape": 2}


def test_equal_runs_give_equal_files(tmp_path: Path) -> None:
    nodes = [
        node("Identity", ["input.1"], ["a"]),
        *(node("Mul", ["a", f"k{i}"], [f"m{i}"]) for i in range(5)),
        node("Sum", [f"m{i}" for i in range(5)], ["out:0"]),
    ]
    constants = {f"k{i}": small.floats(4, seed=i) for i in range(5)}
    model = chain(tmp_path / "in", nodes, constants, (4,), output=("rows", 4))
    first, second = (small.apply(Cleanup(), model, tmp_path / name) for name in "ab")
    assert first.digest == second.digest != model.digest


def test_a_clean_graph_is_refused(tmp_path: Path) -> None:
    model = small.conv_net(tmp_path / "in")
    with pytest.raises(NotApplicable, match="nothing to clean up"):
        small.apply(Cleanup(), model, tmp_path / "out")


def test_a_result_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_it(proto, leave_out):
        next(n for n in proto.graph.node if n.op_type == "Relu").op_type = "Neg"
        return proto

    monkeypatch.setattr("strop.techniques.cleanup.fuse", break_it)
    model = small.conv_net(tmp_path / "in")
    with pytest.raises(NotApplicable, match="would change the outputs"):
        small.apply(Cleanup(), model, tmp_path / "out")


def test_quantised_and_custom_graphs_do_not_apply(tmp_path: Path) -> None:
    quantised = chain(
        tmp_path / "q",
        [
            node("QuantizeLinear", ["input.1", "s"], ["a"]),
            node("DequantizeLinear", ["a", "s"], ["out:0"]),
        ],
        {"s": 0.1},
        (4,),
        output=("rows", 4),
    )
    answer = Cleanup().applies(quantised, small.target())
    assert not answer
    assert "quantised" in answer.reason
    assert Cleanup().applies(small.conv_net(tmp_path / "c"), small.target())


def test_slices_of_everything_are_skipped_and_others_stay(tmp_path: Path) -> None:
    nodes = [
        node("Slice", ["input.1", "starts", "far", "axes"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Slice", ["b", "starts", "ends", "axes"], ["c"]),
        node("Slice", ["c", "starts", "far", "axes", "backwards"], ["out:0"]),
    ]
    constants = {
        "starts": np.array([0, 0]),
        "far": np.array([2**31 - 1, 2**31 - 1]),
        "ends": np.array([2**31 - 1, 3]),
        "axes": np.array([0, 1]),
        "backwards": np.array([1, 2]),
    }
    model = chain(tmp_path / "in", nodes, constants, (4,), output=("rows", 2))
    assert small.operators(cleaned(model, tmp_path / "out")) == {"Slice": 2, "Relu": 1}
