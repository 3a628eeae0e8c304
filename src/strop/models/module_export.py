"""An `nn.Module` exported to ONNX; imports torch, so import it late."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from strop.errors import ModelError
from strop.models import graph
from strop.models.module_form import ModuleForm, describe_error
from strop.models.normal import normalise
from strop.models.parity import parity
from strop.models.runner import Runner
from strop.models.sample import Shapes

if TYPE_CHECKING:
    import onnx

OPSET = 18
"""What torch's exporter writes natively; anything else goes through a converter."""

Axes = dict[str, dict[int, str]]
"""For each input, the symbols of its free axes."""


@dataclass(frozen=True)
class Exported:
    """An exported graph, in normal form.

    Attributes
    ----------
    proto
        The graph.
    method
        Which exporter wrote it, and what it left free: ``dynamo, free batch`` …
    failures
        Why the attempts before it failed, one line each.
    """

    proto: onnx.ModelProto
    method: str
    failures: tuple[str, ...]


def export(
    module: nn.Module,
    form: ModuleForm,
    examples: Mapping[str, np.ndarray],
    *,
    checks: Mapping[str, np.ndarray] | None = None,
    shapes: Shapes | None = None,
) -> Exported:
    """Export `module`, leaving free as many dimensions as can be.

    The attempts, in order: batch and likely sequence dimensions free, batch alone free, the
    batch free with the older TorchScript exporter, everything fixed. Each result must give the
    module's outputs on the examples, and on other sizes of what it leaves free.

    Parameters
    ----------
    examples
        What is traced: two examples of every input; one where the module takes no batch of two.
    checks
        More examples, on which the graph must agree with the module as well.

    Raises
    ------
    ModelError
        When no attempt succeeds; the message is the first failure.
    """
    rows = min(len(array) if array.ndim else 1 for array in examples.values())
    batch = _batch_axes(examples) if rows > 1 else {}
    attempts: list[tuple[str, bool, Axes]] = []
    sequence = _sequence_axes(examples, shapes)
    if sequence:
        merged = {name: {**batch.get(name, {}), **sequence.get(name, {})} for name in examples}
        attempts.append(("dynamo, free batch and lengths", True, merged))
    if batch:
        attempts.append(("dynamo, free batch", True, batch))
        attempts.append(("torchscript, free batch", False, batch))
    attempts += [("dynamo, fixed sizes", True, {}), ("torchscript, fixed sizes", False, {})]
    failures: list[str] = []
    for method, dynamo, axes in attempts:
        given = examples if axes else {n: a[:1] if a.ndim else a for n, a in examples.items()}
        try:
            with _quiet(), torch.no_grad():
                proto = _attempt(module, form, given, axes, dynamo=dynamo)
                proto, _ = normalise(proto)
                _compare(module, form, proto, given, checks or examples, axes)
        except Exception as error:  # exporters raise anything
            failures.append(f"{method}: {describe_error(error)}")
            continue
        return Exported(proto, method, tuple(failures))
    raise ModelError(failures[0].split(": ", 1)[1])


def as_tensors(arrays: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Arrays as tensors of their own memory, in the order of `names`."""
    try:
        return {name: torch.tensor(arrays[name]) for name in names}
    except TypeError as error:
        raise ModelError(f"torch cannot hold an example: {error}") from error


def as_arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Tensors as arrays; bfloat16, which numpy lacks, as float32."""
    plain = {n: t.float() if t.dtype == torch.bfloat16 else t for n, t in tensors.items()}
    return {name: tensor.detach().cpu().numpy() for name, tensor in plain.items()}


class _Named(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """A module that takes its inputs in order and returns its outputs as a tuple."""

    def __init__(self, module: nn.Module, form: ModuleForm) -> None:
        super().__init__()
        self.module = module
        self.form = form

    def forward(self, *args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        named = dict(zip(self.form.inputs, args, strict=True))
        return tuple(self.form.run(self.module, named).values())


def _attempt(
    module: nn.Module,
    form: ModuleForm,
    examples: Mapping[str, np.ndarray],
    axes: Axes,
    *,
    dynamo: bool,
) -> onnx.ModelProto:
    import onnx

    args = tuple(as_tensors(examples, form.inputs).values())
    named = _Named(module, form).eval()
    names: dict[str, Any] = {"input_names": form.inputs, "output_names": form.outputs}
    if not dynamo:
        stream = io.BytesIO()
        torch.onnx.export(
            named, args, stream, dynamo=False, opset_version=OPSET, dynamic_axes=axes, **names
        )
        return onnx.load_from_string(stream.getvalue())
    dim = torch.export.Dim
    dynamic = tuple(
        {axis: dim.DYNAMIC if axis == 0 else dim.AUTO for axis in axes.get(name, {})}
        for name in form.inputs
    )
    program = torch.export.export(named, args, dynamic_shapes=(dynamic,), strict=False)
    exported = torch.onnx.export(
        program, dynamo=True, opset_version=OPSET, verbose=False, external_data=True, **names
    )
    proto = _proto_of(exported)
    _name_symbols(proto, axes)
    return proto


def _proto_of(exported: Any) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        exported.save(str(path), external_data=True)
        return graph.read(path)


def _name_symbols(proto: onnx.ModelProto, axes: Axes) -> None:
    """Call torch's symbols (s27) what the caller calls them, inside expressions too."""
    names: dict[str, str] = {}
    for value in proto.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            wanted = axes.get(value.name, {}).get(axis)
            if wanted and dim.dim_param:
                names.setdefault(dim.dim_param, wanted)
    if not names:
        return
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, names)) + r")\b")
    for value in (*proto.graph.input, *proto.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = pattern.sub(lambda found: names[found.group()], dim.dim_param)
    proto.graph.ClearField("value_info")  # inferred again, with the new symbols


def _batch_axes(examples: Mapping[str, np.ndarray]) -> Axes:
    return {name: {0: "batch"} for name, array in examples.items() if array.ndim}


def _sequence_axes(examples: Mapping[str, np.ndarray], shapes: Shapes | None) -> Axes:
    """Axes that may vary: named in `shapes`, or the lengths of integer (token) inputs."""
    axes: Axes = {}
    for name, shape in (shapes or {}).items():
        symbols = {axis: dim for axis, dim in enumerate(shape) if axis and isinstance(dim, str)}
        if symbols:
            axes[name] = symbols
    if axes:
        return axes
    lengths = {
        array.shape[1]: f"{name}_length"
        for name, array in reversed(list(examples.items()))
        if array.ndim == 2 and array.dtype.kind in "iu" and array.shape[1] > 2
    }
    for name, array in examples.items():
        if array.ndim == 2 and array.shape[1] in lengths:
            axes[name] = {1: lengths[array.shape[1]]}
    return axes


def _compare(
    module: nn.Module,
    form: ModuleForm,
    proto: onnx.ModelProto,
    examples: Mapping[str, np.ndarray],
    checks: Mapping[str, np.ndarray],
    axes: Axes,
) -> None:
    """Hold the graph against the module: on the examples, on others, and on other sizes.

    Other values matter: a tracer takes what it does not see through for a constant.
    """
    signature = graph.signature(proto)
    if signature.input_names != form.inputs or signature.output_names != form.outputs:
        raise ModelError(f"the export is {signature}: an input had no part in the computation")
    runner = Runner(proto)
    trials = [dict(examples), *_other_values(checks, examples)]
    if axes:
        trials.append({n: np.concatenate([a, a[:1]]) if a.ndim else a for n, a in examples.items()})
        trials.append({n: a[:1] if a.ndim else a for n, a in examples.items()})
    declared = {spec.name: spec.shape for spec in signature.inputs}
    if any(axis for free in axes.values() for axis in free):
        trials.append({n: _shorter(a, declared[n]) for n, a in examples.items()})
    for number, arrays in enumerate(trials):
        try:
            tensors = form.run(module, as_tensors(arrays, form.inputs))
        except Exception:
            if number == 0:
                raise
            continue  # a size that the module itself refuses
        result = parity(as_arrays(tensors), runner.run(arrays))
        if not result.ok:
            sizes = ", ".join(f"{n}{list(a.shape)}" for n, a in arrays.items())
            raise ModelError(f"the export differs from the module for {sizes}: {result}")


def _other_values(
    checks: Mapping[str, np.ndarray], examples: Mapping[str, np.ndarray]
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of the traced size from the rest of `checks`, three at most."""
    size = max((len(array) for array in examples.values() if array.ndim), default=0)
    total = min((len(array) for array in checks.values() if array.ndim), default=0)
    for start in range(size, min(total, 4 * size) - size + 1, max(size, 1)):
        yield {n: a[start : start + size] if a.ndim else a for n, a in checks.items()}


def _shorter(array: np.ndarray, shape: Sequence[Any] | None) -> np.ndarray:
    free = [axis for axis, dim in enumerate(shape or ()) if axis and not isinstance(dim, int)]
    cut = tuple(slice(0, -1) if axis in free else slice(None) for axis in range(array.ndim))
    return np.ascontiguousarray(array[cut])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep exporters' prints, warnings and log lines away from the user."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            _descriptors_closed(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def _descriptors_closed() -> Iterator[None]:
    """Send descriptors 1 and 2 to nowhere: TorchScript prints whole graphs from C++."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a notebook's streams may be of any kind
            stream.flush()
    saved = {number: os.dup(number) for number in (1, 2)}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in saved:
            os.dup2(nowhere, number)
        yield
    finally:
        os.close(nowhere)
        for number, copy in saved.items():
            os.dup2(copy, number)
            os.close(copy)
