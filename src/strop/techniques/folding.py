"""Rewrites that change no number beyond rounding and leave a graph that quantises well."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

from strop.errors import ModelError
from strop.models.graph import infer_shapes
from strop.techniques.onnx_view import GraphView, attribute, name_nodes

if TYPE_CHECKING:
    from onnx import ModelProto


def prepare(model: ModelProto) -> ModelProto:
    """A copy whose nodes are named, whose batch normalisations are folded into convolutions and
    whose spatial means are global average pools (which have integer kernels).

    Inputs, outputs and their names stay as they are.
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    name_nodes(graph)
    _lift_constants(result)
    constants = {entry.name for entry in graph.initializer}
    inputs = [entry for entry in graph.input if entry.name not in constants]
    del graph.input[:]
    graph.input.extend(inputs)
    _fold_batch_norms(result)
    _pool_means(result)
    with contextlib.suppress(ModelError):
        # Runtimes cannot infer shapes through their own integer ops, and fuse less without.
        result = infer_shapes(result)
    return result


def _lift_constants(model: ModelProto) -> None:
    """`Constant` nodes to initialisers: weights are only found there."""
    kept = []
    for node in model.graph.node:
        value = attribute(node, "value", None) if node.op_type == "Constant" else None
        if value is None:
            kept.append(node)
            continue
        value.name = node.output[0]
        model.graph.initializer.append(value)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _fold_batch_norms(model: ModelProto) -> None:
    """``BatchNormalization(Conv(x))`` to one convolution, computed in float64."""
    from onnx import numpy_helper

    view = GraphView(model)
    folded: set[str] = set()
    for norm in model.graph.node:
        if norm.op_type != "BatchNormalization" or len([o for o in norm.output if o]) != 1:
            continue
        conv = view.nodes.get(view.producer.get(norm.input[0], ""))
        if conv is None or conv.op_type != "Conv" or view.sole_consumer(conv.output[0]) is None:
            continue
        weight = view.constant(conv.input[1])
        parameters = [view.constant(name) for name in norm.input[1:5]]
        has_bias = len(conv.input) > 2 and bool(conv.input[2])
        bias = view.constant(conv.input[2]) if has_bias else np.zeros(1)
        if weight is None or bias is None or any(value is None for value in parameters):
            continue
        gamma, beta, mean, variance = (np.float64(value) for value in parameters)
        factor = gamma / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
        scaled = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
        shifted = (bias - mean) * factor + beta
        names = [f"{conv.name}:folded_weight", f"{conv.name}:folded_bias"]
        for name, value in zip(names, (scaled, shifted), strict=True):
            model.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
        source, output = conv.input[0], norm.output[0]
        del conv.input[:]
        conv.input.extend([source, *names])
        conv.output[0] = output
        folded.add(norm.name)
    _drop_nodes(model, folded)


def _pool_means(model: ModelProto) -> None:
    """``ReduceMean`` over all spatial axes of [n, c, h, w] with keepdims to GlobalAveragePool."""
    view = GraphView(model)
    for node in model.graph.node:
        if node.op_type != "ReduceMean" or not attribute(node, "keepdims", 1):
            continue
        shape = view.shapes.get(node.input[0])
        axes = attribute(node, "axes", None)
        if axes is None and len(node.input) > 1:
            axes = view.constant(node.input[1])
        if shape is None or axes is None or len(shape) < 3:
            continue
        if sorted(int(axis) % len(shape) for axis in axes) == list(range(2, len(shape))):
            del node.input[1:]
            del node.attribute[:]
            node.op_type = "GlobalAveragePool"


def _drop_nodes(model: ModelProto, names: set[str]) -> None:
    kept = [node for node in model.graph.node if node.name not in names]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    drop_unused_initializers(model)


def drop_unused_initializers(model: ModelProto) -> None:
    """Remove the initialisers that nothing reads any more."""
    view = GraphView(model)
    used = set(view.consumers) | view.captured | view.outputs
    kept = [entry for entry in model.graph.initializer if entry.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
