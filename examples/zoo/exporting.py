"""From a torch module to a plain ONNX file, checked against the module."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch


def export(
    module: torch.nn.Module,
    inputs: Mapping[str, torch.Tensor],
    output: str,
    axes: Mapping[int, str],
    path: Path,
    *,
    tolerance: float = 1e-4,
) -> float:
    """Write `path` (opset 18, IR 10) and return the greatest absolute difference from `module`.

    `inputs` are example tensors by name, in the order of forward's arguments; `axes` names the
    dimensions that stay dynamic, the same for all inputs. A difference above `tolerance` raises.
    """
    module.eval()
    dynamic = {axis: torch.export.Dim(name, min=1, max=4096) for axis, name in axes.items()}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it reports that torchvision is absent
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own use of torch, and axes that inputs share
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=tuple(dict(dynamic) for _ in inputs),
            opset_version=18,
            dynamo=True,
            verbose=False,
        )
    model = program.model_proto
    # The exporter records stack traces, which hold this machine's paths.
    del model.metadata_props[:]
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.functions):
        del part.metadata_props[:]
    model.ir_version = 10
    onnx.checker.check_model(model)
    onnx.save(model, path)
    with torch.inference_mode():
        expected = module(*inputs.values()).numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (actual,) = session.run([output], {name: tensor.numpy() for name, tensor in inputs.items()})
    difference = float(np.abs(actual - expected).max())
    if difference > tolerance:
        raise RuntimeError(f"{path} differs from the module by {difference:g} > {tolerance:g}")
    return difference


def run(path: Path, arrays: Mapping[str, np.ndarray], batch: int = 50) -> np.ndarray:
    """The first output of an ONNX model in ONNX Runtime, fp32, on all rows."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rows = len(next(iter(arrays.values())))
    parts = [
        session.run(None, {name: array[at : at + batch] for name, array in arrays.items()})[0]
        for at in range(0, rows, batch)
    ]
    return np.concatenate(parts)
