"""What rounded weights stand for, in float: where training goes on from rounding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from strop.techniques.onnx_view import GraphView
from strop.techniques.qdq import Rounded
from strop.techniques.quantisable import Layer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import ModelProto


def as_floats(
    model: ModelProto,
    layers: Sequence[Layer],
    rounded: Mapping[str, Rounded],
    shifts: Mapping[str, np.ndarray],
) -> ModelProto:
    """`model` with each layer's weight the float that its integers stand for, and its bias moved.

    Constants that more than one node reads stay as they are: what is right for one layer need not
    be for another.

    Parameters
    ----------
    model
        Float, prepared by :func:`strop.techniques.folding.prepare`; not changed.
    rounded
        By layer name, as :func:`strop.techniques.qdq.round_weights` gives it.
    shifts
        float[channels] to add to biases, by layer name
        (:func:`strop.techniques.bias_correction.bias_shifts`).
    """
    from onnx import ModelProto, numpy_helper

    result = ModelProto()
    result.CopyFrom(model)
    view = GraphView(result)
    readers = Counter(name for node in view.nodes.values() for name in node.input)
    values: dict[str, np.ndarray] = {}
    added: dict[str, np.ndarray] = {}
    for layer in layers:
        if readers[layer.weight] == 1:
            stored, scales = rounded[layer.name]
            shape = [-1 if axis == layer.channel_axis else 1 for axis in range(stored.ndim)]
            values[layer.weight] = stored * scales.reshape(shape)
        shift = shifts.get(layer.name)
        if shift is None:
            continue
        if layer.bias is None:
            added[layer.name] = shift
        elif readers[layer.bias] == 1:
            bias = view.constant(layer.bias)
            assert bias is not None
            values[layer.bias] = bias + shift.reshape(bias.shape)
    for entry in result.graph.initializer:
        if entry.name in values:
            array = np.ascontiguousarray(values[entry.name], np.float32)
            entry.CopyFrom(numpy_helper.from_array(array, entry.name))
    for layer_name, shift in added.items():
        node = view.nodes[layer_name]
        name = f"{layer_name}:shift"
        del node.input[2:]
        node.input.append(name)
        array = np.ascontiguousarray(shift, np.float32)
        result.graph.initializer.append(numpy_helper.from_array(array, name))
    return result
