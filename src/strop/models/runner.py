"""One-off runs of a graph on ONNX Runtime, to check an import; never timed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strop.errors import ModelError
from strop.models.graph import INLINE_LIMIT, first_line, weight_bytes
from strop.models.parity import parity

if TYPE_CHECKING:
    import onnx


class Runner:
    """A graph loaded on the CPU with one thread and only the safest graph rewrites.

    Raises
    ------
    ModelError
        When ONNX Runtime refuses the graph, here or in `run`.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        try:
            self._session = _open(proto, options)
        except Exception as error:  # ORT's own exceptions derive from Exception alone
            raise ModelError(f"ONNX Runtime refuses the graph: {_reason(error)}") from error
        self.input_names = [entry.name for entry in self._session.get_inputs()]
        self.output_names = [entry.name for entry in self._session.get_outputs()]

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs for one batch."""
        feed = {name: arrays[name] for name in self.input_names}
        try:
            values = self._session.run(None, feed)
        except Exception as error:
            raise ModelError(f"the graph does not run: {_reason(error)}") from error
        return dict(zip(self.output_names, map(np.asarray, values), strict=True))


def run(proto: onnx.ModelProto, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Load `proto` and run it once (see :class:`Runner`)."""
    return Runner(proto).run(arrays)


def first_divergence(
    reference: onnx.ModelProto,
    candidate: onnx.ModelProto,
    arrays: Mapping[str, np.ndarray],
    *,
    bound: float = 1e-3,
) -> str | None:
    """The first tensor, in the reference's order, that both graphs compute and not alike.

    None when all that they share agrees, or when one cannot run with its inner tensors exposed.
    """
    import onnx

    shared = {name for node in candidate.graph.node for name in node.output if name}
    order: list[str] = [
        name for node in reference.graph.node for name in node.output if name in shared
    ]
    runs = []
    for proto in (reference, candidate):
        exposed = onnx.ModelProto()
        exposed.CopyFrom(proto)
        shown = {value.name for value in exposed.graph.output}
        exposed.graph.output.extend(
            onnx.ValueInfoProto(name=name) for name in order if name not in shown
        )
        try:
            runs.append(Runner(exposed).run(arrays))
        except ModelError:
            return None
    for name in order:
        if not parity({name: runs[0][name]}, {name: runs[1][name]}, bound=bound).ok:
            return name
    return None


def _open(proto: onnx.ModelProto, options: Any) -> Any:
    import onnx
    import onnxruntime

    providers = ["CPUExecutionProvider"]
    if weight_bytes(proto) <= INLINE_LIMIT:
        return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=providers)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        big = onnx.ModelProto()
        big.CopyFrom(proto)
        onnx.save_model(big, path, save_as_external_data=True, location="model.onnx.data")
        return onnxruntime.InferenceSession(str(path), options, providers=providers)


def _reason(error: Exception) -> str:
    text = first_line(error)
    # "[ONNXRuntimeError] : 1 : FAIL : Load model from bytes failed:<reason>"
    return text.split(" : ", 3)[-1] if text.startswith("[ONNXRuntimeError]") else text
