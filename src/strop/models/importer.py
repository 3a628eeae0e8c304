"""One way in for every kind of model."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from strop.errors import ModelError
from strop.models import module_files
from strop.models.estimator_importer import import_estimator, is_estimator
from strop.models.model import Model, ModuleSource, digest_of_tree
from strop.models.module_form import ModuleForm
from strop.models.module_importer import import_module, open_source
from strop.models.onnx_importer import import_onnx
from strop.models.saved_model import MARK, import_saved_model
from strop.models.tflite_importer import import_tflite
from strop.models.user_code import is_user_code

_OTHER_FORMATS = {
    (".safetensors",): "it holds weights without the network: give the Hugging Face folder that "
    "it lies in, or file.py:callable, a function that builds the module and loads them",
    (".pb",): "give the folder of the SavedModel that it lies in",
    (".h5", ".hdf5"): "open it with Keras and save it again: model.save('model.keras')",
    (".xml",): "give the ONNX file or the module that it was made from",
    (".engine", ".plan", ".mlmodel"): "give the model that it was compiled from",
}


_TORCH_PICKLE = (
    "give file.py:callable, a function that builds the module and loads its weights (torch.load "
    "with weights_only=True)"
)
_OBJECT_PICKLE = (
    "in Python, pass the object itself to strop.optimize; on the command line, file.py:callable, "
    "a function that loads and returns it"
)
_PICKLES = {
    (".pt", ".pth", ".ckpt", ".bin"): _TORCH_PICKLE,
    (".pkl", ".pickle", ".joblib", ".skops", ".dill"): _OBJECT_PICKLE,
}
"""Reading a pickle runs the code in it: strop reads none, whoever it comes from."""
_PROTOCOLS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
"""What a pickle begins with, of all protocols but the oldest two, which have no mark."""


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
        The path of an ONNX file, of a ``.tflite``, ``.pt2`` or ``.keras`` file, of a Hugging Face
        or SavedModel folder or of one that :meth:`Model.seal` made; ``file.py:callable`` (a
        function without arguments that returns an `nn.Module` or a scikit-learn estimator, or a
        module class); or the module or estimator itself. docs/guide-models.md tells all of each.
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
        When the source is code, or a sealed model that names code, and `trust` is False.
    """
    given: Any = source
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if is_user_code(str(source)):
            given = str(source)
        elif not path.exists():
            raise ModelError(f"there is no file '{source}'", hint="check the path")
        elif (path / MARK).is_file():
            return import_saved_model(path, workdir, examples=examples, emit=emit)
        elif module_files.format_of(path):
            given = path
        elif path.is_dir():
            return _open_directory(path, trust)
        else:
            return _import_file(path, workdir, examples, shapes, emit)
    origin, made = open_source(given, trust=trust)
    if is_estimator(made):
        return import_estimator(made, workdir, examples=examples, shapes=shapes, emit=emit)
    return import_module(
        made,
        workdir,
        origin=origin,
        examples=examples,
        output_names=output_names,
        shapes=shapes,
        emit=emit,
    )


def is_model_folder(path: Path) -> bool:
    """Whether a folder is one model: a SavedModel, one of transformers', or a sealed one."""
    if not path.is_dir():
        return False
    known = module_files.format_of(path)
    return known is not None or any((path / name).is_file() for name in (MARK, "model.json"))


def _import_file(
    path: Path,
    workdir: Path,
    examples: Mapping[str, np.ndarray] | None,
    shapes: Mapping[str, Sequence[int | str]] | None,
    emit: Callable[[str], None],
) -> Model:
    if path.suffix.lower() == ".py":
        raise ModelError(
            f"'{path}' is a Python file", hint=f"name what builds the module: {path}:build"
        )
    if hint := _pickle_hint(path):
        raise ModelError(
            f"'{path.name}' is a pickle, which runs any code when opened: strop opens none",
            hint=hint,
        )
    for suffixes, hint in _OTHER_FORMATS.items():
        if path.suffix.lower() in suffixes:
            raise ModelError(f"strop does not read {path.suffix} files ('{path.name}')", hint=hint)
    if path.suffix.lower() == ".tflite":
        return import_tflite(path, workdir, emit=emit)
    return import_onnx(path, workdir, examples=examples, shapes=shapes, emit=emit)


def _pickle_hint(path: Path) -> str:
    """The way out where the file is a pickle, by its name or by its first bytes; else empty."""
    for suffixes, hint in _PICKLES.items():
        if path.suffix.lower() in suffixes:
            return hint
    if not path.is_file():  # a pipe would wait for whoever writes to it
        return ""
    try:
        with path.open("rb") as file:
            if file.read(2) in _PROTOCOLS:
                return _OBJECT_PICKLE
        with zipfile.ZipFile(path) as archive:  # torch.save writes a pickle into an archive
            held = any(name.rpartition("/")[2] == "data.pkl" for name in archive.namelist())
            return _TORCH_PICKLE if held else ""
    except (OSError, zipfile.BadZipFile):  # what opens it as a model says what is wrong with it
        return ""


def _open_directory(path: Path, trust: bool) -> Model:
    """A model that :meth:`Model.seal` made, maybe elsewhere and by somebody else.

    Later steps open it by its path alone and run whatever module it names: what may not run is
    refused here.
    """
    model = Model.open(path)
    # What a link leads to would be copied into artefacts and bundles, and handed on.
    if link := next((entry for entry in path.rglob("*") if entry.is_symlink()), None):
        raise ModelError(
            f"the model in '{path}' holds a symbolic link, '{link.relative_to(path)}'",
            hint="copy the files themselves (cp -rL)",
        )
    if digest_of_tree(model.path) != model.digest:
        raise ModelError(
            f"the model in '{path}' has been changed since it was sealed",
            hint="import the original again",
        )
    if "module" not in model.forms:
        return model
    form = ModuleForm.read(model.forms["module"])
    form.check_trust(trust=trust)
    return model.with_source(ModuleSource(spec=form.spec) if form.spec else None)
