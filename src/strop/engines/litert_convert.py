"""From an ONNX graph to a `.tflite` file, by Google's litert-torch."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from strop.engines._tensors import as_tensor
from strop.engines._tracing import examples, quiet, sizes
from strop.errors import ModelError, NotApplicable
from strop.models.graph import first_line, read
from strop.models.model import Model
from strop.models.onnx_converter import to_module
from strop.models.parity import parity
from strop.models.runner import Runner
from strop.models.tflite_runner import TFLiteRunner
from strop.records import Signature

_WIDE = {"int64", "uint64", "float64"}


def convert(model: Model, artifact: Path) -> None:
    """Write the `.tflite` file to `artifact`.

    The converter traces at fixed sizes, and LiteRT resizes what it made. Whether that holds is
    tried: at one row, at three, and at another size of whatever else is free, the file must give
    what the ONNX graph gives.

    Raises
    ------
    NotApplicable
        When the graph cannot be converted, or its free dimensions do not stay free.
    """
    try:
        import litert_torch
    except ImportError as error:
        raise NotApplicable(f"litert-torch does not load: {first_line(error)}") from error
    signature = model.signature
    proto = read(model.forms["onnx"])
    module = to_module(proto).eval()
    specs = (*signature.inputs, *signature.outputs)
    failure: Exception | None = None
    for size in sizes(signature):
        arrays = _arrays(signature, 1, size)
        tensors = [as_tensor(arrays[name]) for name in signature.input_names]
        try:
            with warnings.catch_warnings(), _silent():
                warnings.simplefilter("ignore")
                made = litert_torch.convert(
                    module,
                    tuple(tensors),
                    enable_x64=any(spec.dtype in _WIDE for spec in specs),
                )
                with tempfile.TemporaryDirectory(prefix="strop-") as scratch:
                    made.export(str(Path(scratch) / artifact.name))
                    artifact.write_bytes((Path(scratch) / artifact.name).read_bytes())
            break
        except Exception as error:  # export, lowering and MLIR raise anything
            failure = failure or error
    else:
        assert failure is not None
        raise NotApplicable(f"litert-torch cannot convert it: {first_line(failure)}") from failure
    _check(Runner(proto), TFLiteRunner(artifact, signature), signature, size)


def _check(reference: Runner, found: TFLiteRunner, signature: Signature, size: int) -> None:
    compared = 0
    for rows, length in ((1, size), (3, size), (2, size + 8)):
        arrays = _arrays(signature, rows, length)
        try:
            expected = reference.run(arrays)
        except ModelError:  # not every size suits the graph itself
            continue
        try:
            result = parity(expected, found.run(arrays))
        except NotApplicable as error:
            raise NotApplicable(
                f"litert-torch fixes sizes that the model leaves free: {error.message}"
            ) from error
        if not result.ok:
            raise NotApplicable(f"litert-torch's conversion differs at {rows} rows: {result}")
        compared += 1
    if not compared:
        raise NotApplicable("the graph runs at none of the sizes that its conversion was tried at")


def _arrays(signature: Signature, rows: int, size: int) -> dict[str, np.ndarray]:
    """Inputs of one size in all free dimensions: LiteRT knows sizes alone, and no names of them."""
    return examples(signature, rows, size, step=0)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep the converter's account of its steps to itself."""
    with (
        quiet(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        yield
