from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from strop.models import graph, relative_error
from strop.models.runner import run
from strop.techniques.activations import fuse_activations
from strop.techniques.fusion import drop_dead_nodes
from strop.techniques.onnx_view import name_nodes

from . import small_graphs as small
from .small_graphs import node


def fused(folder: Path, nodes: list, constants: dict[str, float], opset: int = 17) -> dict:
    """Operators after the fusion, whose outputs are held against the original's."""
    model = small.seal(
        folder,
        nodes,
        {name: np.float32(value) for name, value in constants.items()},
        inputs={"x": ("rows", 8)},
        outputs={"y": ("rows", 8)},
        opset=opset,
    )
    proto = small.proto_of(model)
    before = run(proto, arrays := {"x": 3 * small.floats(5, 8)})
    name_nodes(proto.graph)
    after = fuse_activations(proto)
    drop_dead_nodes(after)
    assert relative_error(before["y"], run(after, arrays)["y"]) < 1e-5
    return dict(graph.operators(after))


def gelu_tanh(cube: str) -> tuple[list, dict[str, float]]:
    """0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))) as two exporters write it."""
    cubes = {
        "power": [node("Pow", ["x", "three"], ["x3"]), node("Mul", ["x3", "c"], ["cx3"])],
        "products": [
            node("Mul", ["c", "x"], ["cx"]),
            node("Mul", ["x", "cx"], ["cx2"]),
            node("Mul", ["x", "cx2"], ["cx3"]),
        ],
    }
    nodes = [
        *cubes[cube],
        node("Add", ["x", "cx3"], ["inner"]),
        node("Mul", ["root", "inner"], ["scaled"]),
        node("Tanh", ["scaled"], ["t"]),
        node("Add", ["one", "t"], ["t1"]),
        node("Mul", ["half", "t1"], ["gate"]),
        node("Mul", ["x", "gate"], ["y"]),
    ]
    root = float(np.sqrt(2 / np.pi))
    return nodes, {"three": 3.0, "c": 0.044715, "root": root, "one": 1.0, "half": 0.5}


@pytest.mark.parametrize("cube", ["power", "products"])
def test_gelu_by_tanh_in_two_spellings(tmp_path: Path, cube: str) -> None:
    assert fused(tmp_path, *gelu_tanh(cube), opset=17) == {"Gelu": 1}


def test_gelu_by_erf_raises_the_opset(tmp_path: Path) -> None:
    nodes = [
        node("Div", ["x", "root"], ["a"]),
        node("Erf", ["a"], ["b"]),
        node("Add", ["b", "one"], ["c"]),
        node("Mul", ["x", "c"], ["d"]),
        node("Mul", ["d", "half"], ["y"]),
    ]
    constants = {"root": 2**0.5, "one": 1.0, "half": 0.5}
    assert fused(tmp_path, nodes, constants) == {"Gelu": 1}


def hard_swish(form: str) -> list:
    gate = [
        node("Add", ["three", "x"], ["shifted"]),
        node("Clip", ["shifted", "zero", "six"], ["gate"]),
    ]
    if form == "product first":
        return [*gate, node("Mul", ["gate", "x"], ["p"]), node("Div", ["p", "six"], ["y"])]
    return [*gate, node("Mul", ["gate", "sixth"], ["f"]), node("Mul", ["x", "f"], ["y"])]


@pytest.mark.parametrize("form", ["product first", "division first"])
def test_hard_swish(tmp_path: Path, form: str) -> None:
    constants = {"three": 3.0, "zero": 0.0, "six": 6.0, "sixth": 1 / 6}
    assert fused(tmp_path, hard_swish(form), constants) == {"HardSwish": 1}


def test_mish(tmp_path: Path) -> None:
    nodes = [
        node("Softplus", ["x"], ["s"]),
        node("Tanh", ["s"], ["t"]),
        node("Mul", ["x", "t"], ["y"]),
    ]
    assert fused(tmp_path, nodes, {}) == {"Mish": 1}


def test_a_gate_with_other_bounds_stays(tmp_path: Path) -> None:
    constants = {"three": 3.0, "zero": 0.5, "six": 6.0}
    found = fused(tmp_path, hard_swish("product first"), constants)
    assert found == {"Add": 1, "Clip": 1, "Mul": 1, "Div": 1}


def test_what_others_read_stays_where_it_is(tmp_path: Path) -> None:
    """The gate of a HardSwish that is read twice: it is kept for the other reader alone."""
    nodes = [*hard_swish("product first")[:-1], node("Div", ["p", "six"], ["h"])]
    nodes.append(node("Add", ["h", "gate"], ["y"]))
    constants = {"three": 3.0, "zero": 0.0, "six": 6.0}
    found = fused(tmp_path, nodes, constants)
    assert found == {"HardSwish": 1, "Add": 2, "Clip": 1}


def test_constants_of_more_than_one_number_are_no_activation(tmp_path: Path) -> None:
    nodes = [
        node("Add", ["x", "three"], ["s"]),
        node("Clip", ["s", "zero", "six"], ["g"]),
        node("Mul", ["x", "g"], ["p"]),
        node("Mul", ["p", "sixths"], ["y"]),
    ]
    constants = {"three": 3.0, "zero": 0.0, "six": 6.0, "sixths": np.full(8, 1 / 6)}
    assert "HardSwish" not in fused(tmp_path, nodes, constants)  # type: ignore[arg-type]
