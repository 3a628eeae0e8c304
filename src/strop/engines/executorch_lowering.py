"""From an ONNX graph to ExecuTorch's ``.pte``: torch.export, then XNNPACK's partitioner."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from strop.engines._tensors import as_tensor
from strop.engines._tracing import examples, quiet, sizes
from strop.errors import NotApplicable
from strop.models.graph import first_line
from strop.models.model import Model
from strop.models.onnx_converter import to_module
from strop.records import Signature

_ROWS = 3
LIMITS = "limits.json"
"""The file beside the program that holds the largest size of each free dimension."""


def lower(model: Model, artifact: Path, *, xnnpack: bool, batch: int, length: int) -> None:
    """Write the program to `artifact`, and the limits of its free dimensions beside it.

    Parameters
    ----------
    xnnpack
        Whether XNNPACK takes the operators that it knows.
    batch, length
        The largest first dimension, and the largest other free one.

    Raises
    ------
    NotApplicable
        When the graph cannot be converted, exported with its free dimensions, or lowered.
    ImportError
        When the compiler does not load.
    """
    module = to_module(model.forms["onnx"]).eval()
    limits = _limits(model.signature, batch, length)
    import torch.fx.experimental._config as settings

    # Without the setting, comparisons of free with fixed sizes inside torch narrow the range.
    unwarned = warnings.catch_warnings()
    with unwarned, quiet(), settings.patch(backed_size_oblivious=True):
        warnings.simplefilter("ignore")  # of deprecations inside torch and ExecuTorch
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
        from executorch.exir.passes import MemoryPlanningPass

        program = _export(module, model.signature, limits)
        try:
            edge = to_edge_transform_and_lower(
                program, partitioner=[XnnpackPartitioner()] if xnnpack else None
            )
            # The caller's arrays are inputs and outputs: no room is planned for them twice.
            planning = MemoryPlanningPass(alloc_graph_input=False, alloc_graph_output=False)
            lowered = edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning))
        except Exception as error:  # the compiler's passes raise anything
            raise NotApplicable(f"ExecuTorch cannot lower it: {first_line(error)}") from error
        _narrow(lowered.exported_program(), model.signature, limits)
    with artifact.open("wb") as stream:
        lowered.write_to_file(stream)
    (artifact.parent / LIMITS).write_text(json.dumps(limits, indent=1, ensure_ascii=False))


def _limits(signature: Signature, batch: int, length: int) -> dict[str, dict[int, int]]:
    """The largest size of each free dimension, by input and axis."""
    found = {}
    for spec in signature.inputs:
        if spec.shape is None:
            raise NotApplicable(f"the rank of input '{spec.name}' is unknown")
        found[spec.name] = {
            axis: length if axis else batch
            for axis, dim in enumerate(spec.shape)
            if not isinstance(dim, int)
        }
    return found


def _export(module: Any, signature: Signature, limits: dict[str, dict[int, int]]) -> Any:
    """The module as an exported program, traced at the first sizes that suit it.

    A dimension that the graph fixes after all, or ties to another, is an error.
    """
    import torch

    dynamic = tuple(
        {
            axis: torch.export.Dim.DYNAMIC(min=1, max=limit)
            for axis, limit in limits[spec.name].items()
        }
        for spec in signature.inputs
    )
    failure: Exception | None = None
    for size in sizes(signature):
        arrays = examples(signature, _ROWS, size)
        tensors = [as_tensor(arrays[name]) for name in signature.input_names]
        try:
            with torch.no_grad():
                return torch.export.export(module, tuple(tensors), dynamic_shapes=dynamic)
        except Exception as error:  # whatever a size does that is none of the network's own
            failure = failure or error
    assert failure is not None
    raise NotApplicable(f"torch.export cannot export it: {first_line(failure)}") from failure


def _narrow(program: Any, signature: Signature, limits: dict[str, dict[int, int]]) -> None:
    """Lower `limits` to what the program itself allows, in place."""
    named = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    inputs = [named[name] for name in program.graph_signature.user_inputs]
    for spec, node in zip(signature.inputs, inputs, strict=True):
        for axis in limits[spec.name]:
            bounds = program.range_constraints.get(node.meta["val"].shape[axis].node.expr)
            if bounds is not None:
                limits[spec.name][axis] = min(limits[spec.name][axis], int(bounds.upper))
