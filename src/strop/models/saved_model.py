"""TensorFlow SavedModels, read by OpenVINO's frontend: TensorFlow itself is not needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from strop.errors import MissingExtra, ModelError, NotApplicable
from strop.models.convert import conversion_reason, read_network, save_ir
from strop.models.model import Model
from strop.records import Dim, Signature, TensorSpec

MARK = "saved_model.pb"
"""The file that makes a folder a SavedModel."""


def import_saved_model(
    folder: Path,
    workdir: Path,
    *,
    examples: Mapping[str, np.ndarray] | None = None,
    emit: Callable[[str], None] = lambda line: None,
) -> Model:
    """The default signature of a SavedModel as a sealed model in OpenVINO's own form.

    There is no onnx form: OpenVINO runs it, and techniques that read ONNX do not apply.

    Raises
    ------
    ModelError
        When it holds operators that OpenVINO does not know, or inputs that are no tensors.
    MissingExtra
        When OpenVINO is not installed.
    """
    try:
        network = read_network(folder)
        signature = Signature(
            inputs=tuple(_spec(port) for port in network.inputs),
            outputs=tuple(_spec(port) for port in network.outputs),
        )
        save_ir(network, signature, workdir)
    except ImportError as error:
        raise MissingExtra("openvino", extra="openvino") from error
    except NotApplicable as error:
        raise ModelError(f"'{folder.name}' cannot be read: {error.message}") from error
    except Exception as error:  # OpenVINO raises RuntimeError and its own kinds
        raise ModelError(
            f"OpenVINO cannot read the SavedModel '{folder.name}': {conversion_reason(error)}",
            hint="convert it to ONNX where TensorFlow is installed (tf2onnx), and give that",
        ) from error
    if examples is not None and (missing := set(signature.input_names) - set(examples)):
        emit(f"the examples hold no {', '.join(sorted(missing))}")
    return Model.seal(
        workdir,
        signature,
        meta={
            "original_format": "savedmodel",
            "file_name": folder.name,
            "producer": "tensorflow",
            "changes": [],
            "onnx_error": _ONNX_ERROR,
        },
    )


_ONNX_ERROR = (
    "needs an ONNX form, and a SavedModel has none: tf2onnx makes one where TensorFlow is installed"
)


def _spec(port: Any) -> TensorSpec:
    # Besides the signature's name a tensor has its node's, with a colon and a number.
    names = sorted(port.get_names(), key=lambda name: (":" in name, len(name), name))
    if not names:
        raise NotApplicable("a tensor at its border has no name")
    kind = port.get_element_type().get_type_name()
    partial = port.get_partial_shape()
    shape: tuple[Dim, ...] | None = None
    if partial.rank.is_static:
        shape = tuple(
            dim.get_length() if dim.is_static else "batch" if place == 0 else None
            for place, dim in enumerate(partial)
        )
    return TensorSpec(name=names[0], dtype=_DTYPES.get(kind, kind), shape=shape)


_DTYPES = {
    "f32": "float32",
    "f64": "float64",
    "f16": "float16",
    "bf16": "bfloat16",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
    "u64": "uint64",
    "boolean": "bool",
    "string": "str",
}
