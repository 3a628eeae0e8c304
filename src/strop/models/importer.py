"""One way in for every kind of model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from strop.errors import ModelError
from strop.models.model import Model, ModuleSource, digest_of_tree
from strop.models.module_form import ModuleForm
from strop.models.module_importer import import_module
from strop.models.onnx_importer import import_onnx

_OTHER_FORMATS = {
    (".pt", ".pth", ".ckpt", ".bin", ".safetensors"): "holds weights without the network: give "
    "file.py:callable, a function that builds the module and loads them",
    (".pt2",): "export it to ONNX: torch.onnx.export(program, args, 'model.onnx', dynamo=True)",
    (".tflite", ".pb", ".h5", ".keras"): "convert it to ONNX first (tf2onnx)",
    (".xml",): "give the ONNX file or the module that it was made from",
    (".pkl", ".joblib"): "convert it to ONNX first (skl2onnx)",
    (".engine", ".plan", ".mlmodel"): "give the model that it was compiled from",
}


def load(
    source: Any,
    *,
    workdir: Path,
    examples: Mapping[str, np.ndarray] | None = None,
    trust: bool = False,
    output_names: Sequence[str] | None = None,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    emit: Callable[[str], None] = lambda line: None,
) -> Model:
    """Read a model of any supported kind.

    Parameters
    ----------
    source
        The path of an ONNX file, ``file.py:callable`` (a function without arguments that
        returns an `nn.Module`, or a module class), an `nn.Module`, or the path of a directory
        that :meth:`Model.seal` made.
    workdir
        An empty or new directory, into which the model is written.
    examples
        Named arrays, examples along dimension 0. A module needs them, or `shapes`, to be traced;
        an ONNX graph is checked on them instead of on random values.
    trust
        Whether Python code in `source` may run.
    output_names
        Names for a module's outputs, in order.
    shapes
        Sizes of inputs by name; a str is a dimension that may vary.
    emit
        Receives one line for each thing changed or noticed on the way.

    Returns
    -------
    The sealed model, with an onnx form whenever there can be one. ``meta["changes"]`` tells what
    was changed; ``meta["export_error"]`` why a module has no onnx form.

    Raises
    ------
    ModelError
        When the source cannot be read or is not safe to read.
    TrustError
        When the source is code and `trust` is False.
    """
    if not isinstance(source, str | Path):
        return import_module(
            source, workdir, examples=examples, output_names=output_names, shapes=shapes, emit=emit
        )
    if ".py:" in str(source):
        return import_module(
            str(source),
            workdir,
            examples=examples,
            trust=trust,
            output_names=output_names,
            shapes=shapes,
            emit=emit,
        )
    path = Path(source).expanduser()
    if not path.exists():
        raise ModelError(f"there is no file '{source}'", hint="check the path")
    if path.is_dir():
        return _open_directory(path, trust)
    if path.suffix.lower() == ".py":
        raise ModelError(
            f"'{source}' is a Python file", hint=f"name what builds the module: {source}:build"
        )
    for suffixes, hint in _OTHER_FORMATS.items():
        if path.suffix.lower() in suffixes:
            raise ModelError(f"strop does not read {path.suffix} files ('{path.name}')", hint=hint)
    return import_onnx(path, workdir, examples=examples, shapes=shapes, emit=emit)


def _open_directory(path: Path, trust: bool) -> Model:
    model = Model.open(path)
    if digest_of_tree(model.path) != model.digest:
        raise ModelError(
            f"the model in '{path}' has been changed since it was sealed",
            hint="import the original again",
        )
    if "module" in model.forms and trust:
        spec = ModuleForm.read(model.forms["module"]).spec
        model = model.with_source(ModuleSource(spec=spec) if spec else None)
    return model
