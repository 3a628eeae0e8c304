"""A read-only index over an ONNX graph: who produces a tensor, who reads it, what is constant."""

from __future__ import annotations

import contextlib
import functools
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from strop.errors import ModelError
from strop.models.graph import infer_shapes, shapes_by_name

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto


class GraphView:
    """The main graph of a model, indexed once; stale as soon as the graph changes.

    Attributes
    ----------
    nodes
        The nodes by name (see :func:`name_nodes`), in the graph's order.
    producer
        For each tensor that a node computes, that node's name.
    consumers
        For each tensor, the names of the nodes that read it, once per input slot.
    captured
        Tensors that the body of an If, Loop or Scan reads.
    outputs
        The names of the graph's outputs.
    """

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self.opset: int = next(
            entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")
        )
        self.nodes: dict[str, NodeProto] = {node.name: node for node in graph.node}
        self.initializers = {entry.name: entry for entry in graph.initializer}
        self.inputs = [entry.name for entry in graph.input if entry.name not in self.initializers]
        self.outputs = {entry.name for entry in graph.output}
        self.producer: dict[str, str] = {}
        self.consumers: dict[str, list[str]] = defaultdict(list)
        self.captured: set[str] = set()
        for node in graph.node:
            for name in node.input:
                if name:
                    self.consumers[name].append(node.name)
            for name in node.output:
                self.producer[name] = node.name
            for body in _bodies(node):
                self.captured.update(_reads(body))
        self._model = model

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Inferred shapes: an int where a dimension is fixed, None where it is not."""
        model = self._model
        with contextlib.suppress(ModelError):
            model = infer_shapes(model)
        return {
            name: tuple(dim if isinstance(dim, int) else None for dim in shape)
            for name, shape in shapes_by_name(model).items()
        }

    @functools.cached_property
    def floats(self) -> frozenset[str]:
        """Tensors that are known to be float32."""
        from onnx import TensorProto

        model = self._model
        with contextlib.suppress(ModelError):
            model = infer_shapes(model)
        graph = model.graph
        typed = (*graph.input, *graph.output, *graph.value_info)
        names = {
            entry.name for entry in typed if entry.type.tensor_type.elem_type == TensorProto.FLOAT
        }
        names |= {
            name
            for name, entry in self.initializers.items()
            if entry.data_type == TensorProto.FLOAT
        }
        return frozenset(names)

    def constant(self, name: str) -> np.ndarray | None:
        """The value of an initialiser, or None for anything computed."""
        from onnx import numpy_helper

        entry = self.initializers.get(name)
        return None if entry is None else np.array(numpy_helper.to_array(entry))

    def is_private(self, tensor: str) -> bool:
        """Whether the main graph's own nodes are all that reads `tensor`."""
        return tensor not in self.outputs and tensor not in self.captured

    def sole_consumer(self, tensor: str) -> NodeProto | None:
        """The one node that reads `tensor` in one slot, or None."""
        readers = self.consumers.get(tensor, [])
        if len(readers) != 1 or not self.is_private(tensor):
            return None
        return self.nodes[readers[0]]


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """The value of an attribute, or `default` where the node leaves it out."""
    import onnx

    for entry in node.attribute:
        if entry.name == name:
            return onnx.helper.get_attribute_value(entry)
    return default


def name_nodes(graph: GraphProto) -> None:
    """Give each node a name of its own, keeping those that already have one."""
    seen: set[str] = set()
    for node in graph.node:
        name = node.name or f"{node.op_type}:{next(iter(node.output), '')}"
        unique, count = name, 1
        while unique in seen:
            count += 1
            unique = f"{name}#{count}"
        seen.add(unique)
        node.name = unique


def _bodies(node: NodeProto) -> Iterator[GraphProto]:
    import onnx

    for entry in node.attribute:
        if entry.type == onnx.AttributeProto.GRAPH:
            yield entry.g
        elif entry.type == onnx.AttributeProto.GRAPHS:
            yield from entry.graphs


def _reads(graph: GraphProto) -> set[str]:
    names = {name for node in graph.node for name in node.input}
    names.update(entry.name for entry in graph.output)
    for node in graph.node:
        for body in _bodies(node):
            names |= _reads(body)
    return names
