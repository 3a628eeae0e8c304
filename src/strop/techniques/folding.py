"""Rewrites that change no number beyond rounding and leave a graph that quantises well."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

from strop.errors import ModelError
from strop.models.graph import infer_shapes
from strop.techniques.onnx_view import GraphView, attribute, name_nodes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def prepare(model: ModelProto) -> ModelProto:
    """A copy whose nodes are named, with fewer and better quantisable ones.

    Batch normalisations are folded into convolutions; behind a Relu their factors are, and a sum
    with a constant is left. Spatial means become global average pools, which have integer kernels,
    and biases that are added to matrix products become Gemm's. Inputs, outputs and their names
    stay as they are.
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
    _fold_factors(result)
    _pool_means(result)
    _join_biases(result)
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
    view = GraphView(model)
    folded: set[str] = set()
    for norm in model.graph.node:
        conv = view.nodes.get(view.producer.get(norm.input[0], "")) if norm.input else None
        if conv is None or conv.op_type != "Conv" or view.sole_consumer(conv.output[0]) is None:
            continue
        found = _factors(view, norm)
        if found is None or not _scale(model, view, conv, *found):
            continue
        conv.output[0] = norm.output[0]
        folded.add(norm.name)
    _drop_nodes(model, folded)


def _fold_factors(model: ModelProto) -> None:
    """``BatchNormalization(Relu(Conv(x)))`` to ``Relu(Conv(x)) + constant``.

    Factors that are not negative may go before the Relu. A MaxPool behind is taken before the sum,
    where it reads what the convolution writes. What is added must stay where it is: the next
    convolution may pad, and padding is zero behind the sum.
    """
    from onnx import helper, numpy_helper

    view = GraphView(model)
    for norm in model.graph.node:
        found = _factors(view, norm)
        relu = view.nodes.get(view.producer.get(norm.input[0], "")) if found else None
        if found is None or relu is None or relu.op_type != "Relu":
            continue
        conv = view.nodes.get(view.producer.get(relu.input[0], ""))
        chain = (view.sole_consumer(relu.input[0]), view.sole_consumer(norm.input[0]))
        if conv is None or conv.op_type != "Conv" or chain != (relu, norm):
            continue
        (factor, shift), rank = found, len(view.shapes.get(relu.output[0], ()))
        if (factor < 0).any() or not rank:
            continue
        if not _scale(model, view, conv, factor, np.zeros_like(shift)):
            continue
        term = f"{norm.name}:term"
        value = np.float32(shift).reshape(-1, *[1] * (rank - 2))
        model.graph.initializer.append(numpy_helper.from_array(value, term))
        pool, last = view.sole_consumer(norm.output[0]), norm
        if pool is not None and pool.op_type == "MaxPool" and len(pool.output) == 1:
            pooled = type(pool).FromString(pool.SerializeToString())
            pooled.input[0], pooled.output[0] = relu.output[0], f"{norm.name}:pooled"
            added, result, last = pooled.output[0], pool.output[0], pool
            norm.CopyFrom(pooled)
        else:
            added, result = relu.output[0], norm.output[0]
        last.CopyFrom(helper.make_node("Add", [added, term], [result], f"{term}:added"))
    drop_unused_initializers(model)


def _factors(view: GraphView, norm: NodeProto) -> tuple[np.ndarray, np.ndarray] | None:
    """What a batch normalisation multiplies each channel by and then adds, float64 each."""
    if norm.op_type != "BatchNormalization" or len([o for o in norm.output if o]) != 1:
        return None
    parameters = [view.constant(name) for name in norm.input[1:5]]
    if any(value is None for value in parameters):
        return None
    gamma, beta, mean, variance = (np.float64(value) for value in parameters)
    factor = gamma / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    return factor, beta - mean * factor


def _scale(
    model: ModelProto, view: GraphView, conv: NodeProto, factor: np.ndarray, shift: np.ndarray
) -> bool:
    """Multiply what `conv` writes by `factor` and add `shift`, if its weights are constant."""
    from onnx import numpy_helper

    weight = view.constant(conv.input[1])
    has_bias = len(conv.input) > 2 and bool(conv.input[2])
    bias = view.constant(conv.input[2]) if has_bias else np.zeros(1)
    if weight is None or bias is None:
        return False
    scaled = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    names = [f"{conv.name}:folded_weight", f"{conv.name}:folded_bias"]
    for name, value in zip(names, (scaled, bias * factor + shift), strict=True):
        model.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    source = conv.input[0]
    del conv.input[:]
    conv.input.extend([source, *names])
    return True


def _join_biases(model: ModelProto) -> None:
    """``MatMul(x, W) + b`` of [n, k] to Gemm.

    ONNX Runtime does it too, but finds a float bias then, for which it has no integer kernel, and
    dequantises the weights in every call.
    """
    from onnx import helper

    view = GraphView(model)
    joined: set[str] = set()
    for node in model.graph.node:
        if node.op_type != "MatMul" or len(view.shapes.get(node.input[0], ())) != 2:
            continue
        weight, added = view.constant(node.input[1]), view.sole_consumer(node.output[0])
        if weight is None or weight.ndim != 2 or added is None or added.op_type != "Add":
            continue
        (name,) = [entry for entry in added.input if entry != node.output[0]]
        bias = view.constant(name)
        if bias is None or bias.shape not in ((weight.shape[1],), (1, weight.shape[1])):
            continue
        inputs, output = [*node.input, name], added.output[0]
        node.CopyFrom(helper.make_node("Gemm", inputs, [output], node.name))
        joined.add(added.name)
    _drop_nodes(model, joined)


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
