"""What quantisation made slower: operators of two graphs, matched by the nodes that they execute.

An engine fuses the two graphs differently, so that one operator here may be three there. Operators
that share a node belong to one group, and groups are what is compared. What quantisers put around
a node they call after it (``conv1_quant``, ``conv1/fq_output_0``), and it counts for that node.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from strop.profiling.record import EngineProfile, Operator, Quantisation, Slowed

SLOWER = 1.1
"""How many times a group's float time it takes to count as slower.

Besides, the lower quartile of its quantised time must be above the upper one of its float time:
whatever else runs on the machine must not look like a loss.
"""
WORTH = 0.01
"""The least share of a call that a loss must be to be listed."""


def compare(quantised: EngineProfile, original: EngineProfile) -> Quantisation:
    """Hold the quantised graph's operators against the float graph's, on the same engine."""
    names = {name for operator in original.operators for name in operator.nodes}
    quantised = quantised.model_copy(
        update={"operators": tuple(_renamed(op, names) for op in quantised.operators)}
    )
    group = _groups([*quantised.operators, *original.operators], names)
    before = _members(original.operators, group)
    after = _members(quantised.operators, group)
    slowed = []
    for root, mine in after.items():
        theirs = before.get(root, [])
        seconds, was = (sum(op.seconds for op in side) for side in (mine, theirs))
        apart = sum(op.low for op in mine) > sum(op.high for op in theirs)
        worth = WORTH * quantised.profiled_seconds
        if not theirs or not apart or seconds < SLOWER * was or seconds - was < worth:
            continue
        slowed.append(
            Slowed(
                nodes=tuple(dict.fromkeys(node for op in mine for node in op.nodes)),
                operators=tuple(dict.fromkeys(op.operator for op in mine)),
                float_seconds=was,
                quantised_seconds=seconds,
            )
        )
    slowed.sort(key=lambda one: one.float_seconds - one.quantised_seconds)
    return Quantisation(
        float_profile=original,
        slowed=tuple(slowed),
        added_seconds=sum(op.seconds for op in quantised.operators if _root(op, group) is None),
    )


def _renamed(operator: Operator, names: set[str]) -> Operator:
    """The operator with the original's nodes in place of those that are called after them."""
    found = [origin for name in operator.nodes if (origin := _origin(name, names))]
    return operator.model_copy(update={"nodes": tuple(dict.fromkeys(found))})


def _origin(name: str, names: set[str]) -> str | None:
    """The longest name of the original's that `name` is, or begins with up to a mark."""
    if name in names:
        return name
    marks = [match.start() for match in re.finditer(r"[_/:.]", name)]
    return next((name[:end] for end in reversed(marks) if name[:end] in names), None)


def _groups(operators: Sequence[Operator], names: set[str]) -> dict[str, str]:
    """For each node the one that stands for its group: nodes of one operator are one group."""
    parent = {name: name for name in names}

    def find(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for operator in operators:
        for name in operator.nodes[1:]:
            parent[find(name)] = find(operator.nodes[0])
    return {name: find(name) for name in names}


def _root(operator: Operator, group: dict[str, str]) -> str | None:
    return group[operator.nodes[0]] if operator.nodes else None


def _members(operators: Sequence[Operator], group: dict[str, str]) -> dict[str, list[Operator]]:
    members: dict[str, list[Operator]] = {}
    for operator in operators:
        root = _root(operator, group)
        if root is not None:
            members.setdefault(root, []).append(operator)
    return members
