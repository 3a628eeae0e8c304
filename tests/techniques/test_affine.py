"""Scales and shifts around convolutions: gone where they can be, the same numbers everywhere."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, NodeProto

from strop.models import graph, relative_error
from strop.models.runner import run
from strop.techniques.affine import fold_affine
from strop.techniques.cleanup import PASSES, Cleanup, rewrite
from strop.techniques.fusion import drop_dead_nodes
from strop.techniques.onnx_view import name_nodes

from . import small_graphs as small
from .small_graphs import node

CHANNELS = 4


def folded(
    folder: Path, nodes: list[NodeProto], constants: dict, *, outputs: tuple[str, ...] = ("out",)
) -> tuple[ModelProto, Counter[str]]:
    """The graph after folding, with its operators; its numbers are those before."""
    model = small.seal(
        folder,
        nodes,
        {"bias": small.floats(CHANNELS, seed=9), **constants},
        inputs={"x": ("n", CHANNELS, 6, 6)},
        outputs=dict.fromkeys(outputs),
    )
    proto = small.proto_of(model)
    arrays = {"x": small.floats(2, CHANNELS, 6, 6, seed=3)}
    before = run(proto, arrays)
    name_nodes(proto.graph)
    fold_affine(proto)
    drop_dead_nodes(proto)
    after = run(proto, arrays)
    assert before.keys() == after.keys()
    assert all(relative_error(before[name], after[name]) < 1e-5 for name in before)
    return proto, graph.operators(proto)


def weight(group: int = 1, side: int = 1) -> np.ndarray:
    return small.floats(CHANNELS, CHANNELS // group, side, side, seed=5)


NUMBER = np.array([1.7], np.float32)
COLUMN = np.linspace(0.5, 2, CHANNELS, dtype=np.float32).reshape(CHANNELS, 1, 1)
SPELLINGS = [
    ("Mul", ["@", "c"]),
    ("Mul", ["c", "@"]),
    ("Div", ["@", "c"]),
    ("Add", ["@", "c"]),
    ("Add", ["c", "@"]),
    ("Sub", ["@", "c"]),
    ("Sub", ["c", "@"]),
]


@pytest.mark.parametrize("value", [np.float32(1.7), NUMBER, COLUMN, COLUMN[None]])
@pytest.mark.parametrize(("op", "inputs"), SPELLINGS)
def test_behind_a_convolution(
    tmp_path: Path, op: str, inputs: list[str], value: np.ndarray
) -> None:
    nodes = [
        node("Conv", ["x", "w", "bias"], ["a"], pads=[1, 1, 1, 1]),
        node(op, [name.replace("@", "a") for name in inputs], ["b"]),
        node("Mul", ["b", "d"], ["y"]),
        node("Relu", ["y"], ["out"]),
    ]
    constants = {"w": weight(side=3), "c": value, "d": NUMBER}
    _, found = folded(tmp_path, nodes, constants)
    assert found == {"Conv": 1, "Relu": 1}


@pytest.mark.parametrize("group", [1, 2, CHANNELS])
@pytest.mark.parametrize("value", [NUMBER, COLUMN])
@pytest.mark.parametrize(("op", "inputs"), SPELLINGS)
def test_in_front_of_an_unpadded_one(
    tmp_path: Path, op: str, inputs: list[str], value: np.ndarray, group: int
) -> None:
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("Mul", ["a", "d"], ["b"]),
        node(op, [name.replace("@", "b") for name in inputs], ["y"]),
        node("Conv", ["y", "w"], ["out"], group=group),  # no bias of its own
    ]
    constants = {"w": weight(group, 3), "c": value, "d": COLUMN}
    proto, found = folded(tmp_path, nodes, constants)
    assert found == {"Conv": 1, "Relu": 1}
    assert len(proto.graph.node[1].input) == 3


@pytest.mark.parametrize("value", [NUMBER, COLUMN])
def test_a_shift_in_front_of_padding_stays_and_its_scale_goes(
    tmp_path: Path, value: np.ndarray
) -> None:
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("Mul", ["a", "s"], ["b"]),
        node("Sub", ["b", "c"], ["y"]),
        node("Conv", ["y", "w", "bias"], ["out"], group=CHANNELS, pads=[1, 1, 1, 1]),
    ]
    constants = {"w": weight(CHANNELS, 3), "s": np.float32(0.2) * COLUMN, "c": value}
    _, found = folded(tmp_path, nodes, constants)
    assert found == {"Relu": 1, "Add": 1, "Conv": 1}


def test_a_scale_alone_passes_padding(tmp_path: Path) -> None:
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("Mul", ["a", "s"], ["y"]),
        node("Conv", ["y", "w"], ["out"], auto_pad="SAME_UPPER"),
    ]
    _, found = folded(tmp_path, nodes, {"w": weight(side=3), "s": NUMBER})
    assert found == {"Relu": 1, "Conv": 1}


def test_all_readers_take_it_on_or_none(tmp_path: Path) -> None:
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("Mul", ["a", "s"], ["b"]),
        node("Add", ["b", "c"], ["y"]),
        node("Conv", ["y", "w"], ["one"], name="one"),
        node("Conv", ["y", "v"], ["two"], name="two", group=2),
    ]
    constants = {"w": weight(), "v": weight(2, 3), "s": NUMBER, "c": COLUMN}
    _, found = folded(tmp_path / "both", nodes, constants, outputs=("one", "two"))
    assert found == {"Relu": 1, "Conv": 2}
    nodes.append(node("Exp", ["y"], ["three"]))
    _, found = folded(tmp_path / "one", nodes, constants, outputs=("one", "two", "three"))
    assert (found["Mul"], found["Add"]) == (1, 1)


def test_between_two_convolutions_the_first_takes_it(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w", "bias"], ["a"], name="one"),
        node("Mul", ["a", "s"], ["b"]),
        node("Add", ["b", "c"], ["y"]),
        node("Conv", ["y", "w"], ["out"], name="two", pads=[1, 1, 1, 1]),
    ]
    _, found = folded(tmp_path, nodes, {"w": weight(side=3), "s": NUMBER, "c": COLUMN})
    assert found == {"Conv": 2}


@pytest.mark.parametrize(
    ("op", "value"),
    [
        ("Mul", small.floats(6, 6, seed=1)),  # another number for each pixel
        ("Mul", small.floats(2, 1, 1, 1, seed=1)),  # for each row of the batch
        ("Mul", np.ones((1, 1, CHANNELS, 1, 1), np.float32)),  # one axis more
        ("Pow", NUMBER),
    ],
)
def test_what_is_no_scale_of_channels_stays(tmp_path: Path, op: str, value: np.ndarray) -> None:
    nodes = [
        node("Conv", ["x", "w", "bias"], ["a"], pads=[1, 1, 1, 1]),
        node("Abs", ["a"], ["p"]) if op == "Pow" else node("Mul", ["a", "s"], ["p"]),
        node(op, ["p", "c"], ["out"]),
    ]
    constants = {"w": weight(side=3), "c": value, "s": NUMBER}
    _, found = folded(tmp_path, nodes, constants)
    assert found[op] == 1


def test_what_is_read_elsewhere_or_widens_stays(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w", "bias"], ["a"]),
        node("Mul", ["a", "s"], ["out"]),
        node("Exp", ["a"], ["other"]),
    ]
    _, found = folded(
        tmp_path / "read", nodes, {"w": weight(), "s": NUMBER}, outputs=("out", "other")
    )
    assert found["Mul"] == 1
    nodes = [
        node("ReduceMean", ["x"], ["m"], axes=[1], keepdims=1),
        node("Mul", ["m", "s"], ["y"]),  # one channel becomes four
        node("Conv", ["y", "w", "bias"], ["out"]),
    ]
    _, found = folded(tmp_path / "wide", nodes, {"w": weight(), "s": COLUMN})
    assert found["Mul"] == 1


def test_names_that_are_taken_stay_what_they_are(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "one:weight", "one:bias"], ["a"], name="one"),
        node("Mul", ["a", "s"], ["out"]),
        node("Add", ["x", "one:bias'"], ["other"]),
    ]
    constants = {"one:weight": weight(), "one:bias": small.floats(CHANNELS), "s": NUMBER}
    _, found = folded(tmp_path, nodes, {**constants, "one:bias'": COLUMN}, outputs=("out", "other"))
    assert found == {"Conv": 1, "Add": 1}


def test_the_clean_up_does_it_unless_told_not_to(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w", "bias"], ["a"], pads=[1, 1, 1, 1]),
        node("Mul", ["s", "a"], ["b"]),
        node("Add", ["b", "s"], ["y"]),
        node("Relu", ["y"], ["out"]),
    ]
    model = small.seal(
        tmp_path / "in",
        nodes,
        {"w": weight(side=3), "bias": small.floats(CHANNELS), "s": NUMBER},
        inputs={"x": ("n", CHANNELS, 6, 6)},
        outputs={"out": ("n", CHANNELS, 6, 6)},
    )
    result = small.apply(Cleanup(), model, tmp_path / "out")
    assert small.operators(result) == {"Conv": 1, "Relu": 1}
    assert result.meta["verified"] is True
    proto = small.proto_of(model)
    without = rewrite(proto, tmp_path / "scratch", PASSES)
    assert graph.operators(without) == graph.operators(proto)
    assert "affine" in PASSES and not (tmp_path / "scratch").exists()
