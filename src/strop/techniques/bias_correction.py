"""Give back to each layer's bias the mean that rounding took from its output.

Rounded weights shift the mean of every output channel, because what they multiply has a mean of
its own (Nagel et al., *Data-free quantization through weight equalization and bias correction*,
ICCV 2019, section 4.2, the empirical form).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from strop.techniques.calibration import Batches, check_deadline, open_session
from strop.techniques.onnx_view import GraphView
from strop.techniques.qdq import Ranges, Rounded, affine, shared_ranges
from strop.techniques.quantisable import Layer, Plan

if TYPE_CHECKING:
    from onnx import ModelProto


def bias_shifts(
    model: ModelProto,
    plan: Plan,
    ranges: Ranges,
    rounded: Mapping[str, Rounded],
    batches: Batches,
    *,
    deadline: float | None = None,
) -> dict[str, np.ndarray]:
    """E[float output] − E[quantised output] of every layer of `plan` with a bias slot.

    Every layer is fed by the float model, so that the shifts are independent of one another and
    one pass over the rows finds them all: beside each layer its rounded twin runs in the same
    graph, and only the means over all axes but the channels come out.

    Returns
    -------
    float64[channels] by layer name, averaged over the rows.
    """
    layers = [layer for layer in plan.layers if layer.op != "MatMul"]
    if not layers:
        return {}
    session = open_session(_with_twins(model, layers, plan, ranges, rounded))
    totals: list[np.ndarray] = []
    rows = 0
    for batch in batches():
        check_deadline(deadline)
        size = max((array.shape[0] for array in batch.values() if array.ndim), default=1)
        means = [size * value.astype(np.float64) for value in session.run(None, dict(batch))]
        totals = [a + b for a, b in zip(totals, means, strict=True)] if totals else means
        rows += size
    return {layer.name: total / rows for layer, total in zip(layers, totals, strict=True)}


def _with_twins(
    model: ModelProto,
    layers: list[Layer],
    plan: Plan,
    ranges: Ranges,
    rounded: Mapping[str, Rounded],
) -> ModelProto:
    import onnx
    from onnx import helper, numpy_helper

    view = GraphView(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    del graph.output[:]
    bounds = shared_ranges(plan, ranges)
    data: dict[str, str] = {}
    for index, layer in enumerate(layers):

        def name(part: str, index: int = index) -> str:
            return f"strop:twin:{index}:{part}"

        def constant(part: str, value: np.ndarray, index: int = index) -> str:
            tensor = f"strop:twin:{index}:{part}"
            graph.initializer.append(numpy_helper.from_array(value, tensor))
            return tensor

        if layer.data not in data:
            scale = affine(*bounds[layer.data])
            pair = [constant("scale", np.array(scale.scale))]
            pair.append(constant("zero", np.array(scale.zero_point)))
            graph.node.append(
                helper.make_node("QuantizeLinear", [layer.data, *pair], [name("stored")])
            )
            graph.node.append(
                helper.make_node("DequantizeLinear", [name("stored"), *pair], [name("data")])
            )
            data[layer.data] = name("data")
        weight = view.constant(layer.weight)
        assert weight is not None
        stored, scales = rounded[layer.name]
        along = [-1 if i == layer.channel_axis else 1 for i in range(weight.ndim)]
        twin = onnx.NodeProto()
        twin.CopyFrom(view.nodes[layer.name])
        twin.name = name("layer")
        twin.input[0] = data[layer.data]
        twin.input[1] = constant("weight", stored * scales.reshape(along))
        twin.output[0] = name("output")
        axes = [0] if layer.op == "Gemm" else [0, *range(2, weight.ndim)]
        graph.node.extend(
            [
                twin,
                helper.make_node("Sub", [layer.raw_output, name("output")], [name("difference")]),
                helper.make_node(
                    "ReduceMean",
                    [name("difference"), constant("axes", np.array(axes, np.int64))],
                    [name("shift")],
                    keepdims=0,
                )
                if view.opset >= 18
                else helper.make_node(
                    "ReduceMean", [name("difference")], [name("shift")], keepdims=0, axes=axes
                ),
            ]
        )
        graph.output.append(
            helper.make_tensor_value_info(name("shift"), onnx.TensorProto.FLOAT, None)
        )
    return result
