"""Operations and bytes of what an engine executes, from the graph's own nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from strop.engines import OperatorTime
from strop.models.nodes import NodeFacts


@dataclass(frozen=True)
class Counted:
    """Operations and bytes of one operator; None where they are not known.

    Attributes
    ----------
    nodes
        The graph's nodes that it executes all or part of, by name.
    """

    flops: int | None
    bytes_moved: int | None
    nodes: tuple[str, ...] = ()


def count(
    graph: Path,
    arrays: Mapping[str, np.ndarray],
    operators: Sequence[OperatorTime],
    *,
    own: bool,
) -> list[Counted]:
    """Count each operator in the ONNX file at `graph`, with inputs like `arrays`.

    A node counts once: where several operators execute parts of it, for the one that takes
    longest; where none names it (engines rename what they rewrite), for the one that reads what it
    makes. A fused operator moves the tensors at its border only.

    Parameters
    ----------
    own
        Whether the graph is the one that runs. In another precision's graph operations are the
        same, but bytes are not.
    """
    from strop.models import graph as graphs
    from strop.models.nodes import nodes

    found, sizes = nodes(graphs.read(graph), arrays)
    return assign(found, sizes, operators, inputs=tuple(arrays), own=own)


def assign(
    nodes: Sequence[NodeFacts],
    sizes: Mapping[str, int],
    operators: Sequence[OperatorTime],
    *,
    inputs: Sequence[str] = (),
    own: bool = True,
) -> list[Counted]:
    """As :func:`count`, of nodes and tensors' bytes that are known already."""
    by_name = {node.name: node for node in nodes}
    maker = {tensor: node.name for node in nodes for tensor in node.outputs}
    matched: list[tuple[str, ...]] = []
    for timed in operators:
        named = [name for name in timed.nodes if name in by_name]
        named += [maker[tensor] for tensor in timed.tensors if tensor in maker]
        matched.append(tuple(dict.fromkeys(named)))
    claims: dict[int, list[NodeFacts]] = {}
    taken: set[str] = set()
    longest = sorted(range(len(operators)), key=lambda index: -operators[index].seconds)
    for index in longest:
        mine = [name for name in matched[index] if name not in taken]
        taken.update(mine)
        claims[index] = [by_name[name] for name in mine]
    readers: dict[str, set[str]] = {tensor: set() for tensor in maker}
    for node in nodes:
        for tensor in node.inputs:
            if tensor in readers:
                readers[tensor].add(node.name)
    for index, nameless in _nameless(nodes, claims, readers, inputs):
        claims[index].append(nameless)
        matched[index] += (nameless.name,)
    counted = []
    for index in range(len(operators)):
        mine_ = claims[index]
        flops = [node.flops for node in mine_]
        counted.append(
            Counted(
                flops=None if not mine_ or None in flops else sum(value or 0 for value in flops),
                bytes_moved=_border(mine_, readers, sizes) if own else None,
                nodes=matched[index],
            )
        )
    return counted


def _nameless(
    nodes: Sequence[NodeFacts],
    claims: Mapping[int, Sequence[NodeFacts]],
    readers: Mapping[str, set[str]],
    inputs: Sequence[str],
) -> Iterator[tuple[int, NodeFacts]]:
    """Nodes that no operator names, each with the operator that reads what it makes.

    What depends on no input is computed once, when the model is loaded, and counts for nobody.
    """
    varying = set(inputs)
    for node in nodes:
        if varying.intersection(node.inputs):
            varying.update(node.outputs)
    owner = {node.name: index for index, mine in claims.items() for node in mine}
    for node in reversed(nodes):
        if node.name in owner or not varying.intersection(node.inputs):
            continue
        near = [name for tensor in node.outputs for name in sorted(readers[tensor])]
        found = next((owner[name] for name in near if name in owner), None)
        if found is not None:
            owner[node.name] = found
            yield found, node


def _border(
    nodes: Sequence[NodeFacts], readers: Mapping[str, set[str]], sizes: Mapping[str, int]
) -> int | None:
    """Bytes that enter and leave a group of nodes that runs as one."""
    if not nodes:
        return None
    if len(nodes) == 1:
        return nodes[0].bytes_moved
    inside = {node.name for node in nodes}
    made = {tensor for node in nodes for tensor in node.outputs}
    # What nobody reads is an output of the graph.
    leaves = {name for name in made if not readers.get(name) or readers[name] - inside}
    enters = {
        tensor
        for node in nodes
        # A lookup reads the rows that it picks, which are as large as what it makes.
        for tensor in (node.inputs[1:] if node.operator.startswith("Gather") else node.inputs)
        if tensor not in made
    }
    picked = [t for node in nodes if node.operator.startswith("Gather") for t in node.outputs[:1]]
    border = [*enters, *leaves, *picked]
    if any(name not in sizes for name in border):
        return None
    return sum(sizes[name] for name in border)
