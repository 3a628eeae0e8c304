"""The nodes of a graph with what each costs, and the bytes of the tensors between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from strop.models import facts, graph

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class NodeFacts:
    """One node of the main graph.

    Attributes
    ----------
    flops, bytes_moved
        As in :class:`strop.models.facts.LayerFacts`: None where a shape depends on data.
    inputs, outputs
        Names of its tensors.
    """

    name: str
    operator: str
    flops: int | None
    bytes_moved: int | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def nodes(
    proto: onnx.ModelProto, examples: Mapping[str, np.ndarray]
) -> tuple[tuple[NodeFacts, ...], dict[str, int]]:
    """The main graph's nodes in order, and the bytes of each tensor whose shape is known.

    Parameters
    ----------
    examples
        One batch by input name: where the sizes of free dimensions come from.
    """
    counted = facts.facts(proto, examples=examples)
    sized = graph.infer_shapes(facts.with_sizes(proto, examples, None, None))
    bits = facts.bits_by_name(sized)
    sizes = {}
    for name, shape in graph.shapes_by_name(sized).items():
        known = [dim for dim in shape if isinstance(dim, int)]
        if len(known) == len(shape) and name in bits:
            sizes[name] = (int(np.prod(known, dtype=np.int64)) * bits[name] + 7) // 8
    found = tuple(
        NodeFacts(
            node.name,
            layer.operator,
            layer.flops,
            layer.bytes_moved,
            tuple(name for name in node.input if name),
            tuple(name for name in node.output if name),
        )
        for node, layer in zip(sized.graph.node, counted.layers, strict=True)
    )
    return found, sizes
