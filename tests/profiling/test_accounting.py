from __future__ import annotations

from typing import Any

from strop.engines import OperatorTime
from strop.models.nodes import NodeFacts
from strop.profiling.accounting import assign

NODES = (
    NodeFacts("conv", "Conv", 1000, 60, ("x", "w"), ("c",)),
    NodeFacts("relu", "Relu", 20, 40, ("c",), ("r",)),
    NodeFacts("look", "Gather", 0, 24, ("table", "ids"), ("e",)),
    NodeFacts("sum", "Add", 20, 60, ("r", "e"), ("y",)),
    NodeFacts("odd", "NonZero", None, None, ("y",), ("z",)),
)
SIZES = {"x": 20, "w": 20, "c": 20, "r": 20, "table": 9000, "ids": 4, "e": 20, "y": 20}


def _timed(name: str, seconds: float, *nodes: str, **more: Any) -> OperatorTime:
    return OperatorTime.over([seconds], name=name, operator="k", nodes=nodes, **more)


def test_a_fused_operator_moves_only_what_crosses_its_border() -> None:
    (found,) = assign(NODES, SIZES, [_timed("a", 1.0, "conv", "relu")])
    assert found.flops == 1020
    assert found.bytes_moved == 20 + 20 + 20  # x, w and r; c stays inside
    assert found.nodes == ("conv", "relu")


def test_a_lookup_does_not_read_its_whole_table() -> None:
    (found,) = assign(NODES, SIZES, [_timed("a", 1.0, "look", "sum")])
    assert found.bytes_moved == 4 + 20 + 20 + 20  # ids, rows picked, r and y


def test_a_node_counts_for_the_operator_that_takes_longest() -> None:
    short, long = assign(NODES, SIZES, [_timed("a", 1.0, "conv"), _timed("b", 2.0, "conv")])
    assert (short.flops, long.flops) == (None, 1000)
    assert short.nodes == long.nodes == ("conv",)


def test_nodes_are_found_by_the_tensors_they_make() -> None:
    (found,) = assign(NODES, SIZES, [_timed("a", 1.0, "Conv_7", tensors=("r",))])
    assert found.nodes == ("relu",) and found.flops == 20


def test_what_is_not_known_stays_unknown() -> None:
    odd, foreign = assign(NODES, SIZES, [_timed("a", 1.0, "odd", "sum"), _timed("b", 1.0, "q")])
    assert odd.flops is None and odd.bytes_moved is None
    assert foreign.flops is None and foreign.bytes_moved is None and foreign.nodes == ()


def test_bytes_of_another_graph_are_not_told() -> None:
    (found,) = assign(NODES, SIZES, [_timed("a", 1.0, "conv")], own=False)
    assert found.flops == 1000 and found.bytes_moved is None


def test_a_node_that_nobody_names_counts_for_its_reader() -> None:
    sums, other = _timed("a", 1.0, "sum"), _timed("b", 1.0, "look")
    found, lookup = assign(NODES, SIZES, [sums, other], inputs=("x", "ids"))
    assert found.flops == 1000 + 20 + 20 and set(found.nodes) == {"sum", "relu", "conv"}
    assert lookup.nodes == ("look",)


def test_what_depends_on_no_input_counts_for_nobody() -> None:
    (found,) = assign(NODES, SIZES, [_timed("a", 1.0, "sum")], inputs=("ids",))
    assert set(found.nodes) == {"sum", "look"}  # conv and relu are folded away
