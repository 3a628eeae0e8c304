"""Keras 3 models (``.keras``), opened on the backend of PyTorch."""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path
from typing import Any

from strop.errors import MissingExtra, ModelError
from strop.models.graph import first_line

_OLDEST = (3, 14)
"""Safe mode of older ones runs code or reads other files: CVE-2025-49655, CVE-2026-1462,
CVE-2026-1669, GHSA-hqp4-2352-xf5r."""


def open_keras(path: Path) -> Any:
    """The model in the file as an `nn.Module` whose forward takes its inputs by name.

    Layers that hold code (``Lambda``) are refused by Keras itself, as it is opened in safe mode.

    Raises
    ------
    ModelError
        When Keras cannot open it, is at work on another backend in this process, or is too old for
        its safe mode to be one.
    """
    keras = _keras()
    try:
        model = keras.saving.load_model(str(path), compile=False, safe_mode=True)
    except Exception as error:  # of Keras, of h5py, or of zip
        raise ModelError(
            f"'{path.name}' cannot be opened by Keras: {first_line(error)}",
            hint="layers of your own, and Lambda, are code: give file.py:callable, a function that "
            "opens the model and returns it",
        ) from error
    return as_module(model)


def as_module(model: Any) -> Any:
    """A Keras model on the PyTorch backend as a module that is called by its inputs' names.

    Raises
    ------
    ModelError
        When the model was never built, so that its inputs are not known.
    """
    import torch

    inputs = getattr(model, "inputs", None)
    if not inputs:
        raise ModelError(
            f"the {type(model).__name__} does not say what it takes",
            hint="call it once before it is saved, or build it from keras.Input",
        )
    names = [re.sub(r"\W", "_", tensor.name) for tensor in inputs]
    outputs = _output_names(model)
    parameter = inspect.Parameter
    signature = inspect.Signature(
        [parameter(name, parameter.POSITIONAL_OR_KEYWORD) for name in names]
    )

    class KerasModule(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
        """A Keras model that is called by the names of its inputs."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            given = list(signature.bind(*args, **kwargs).arguments.values())
            found = self.model(given[0] if len(given) == 1 else given, training=False)
            if isinstance(found, dict):
                return found
            found = found if isinstance(found, list | tuple) else [found]
            return dict(zip(outputs, found, strict=True))

    KerasModule.forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter("self", parameter.POSITIONAL_OR_KEYWORD), *signature.parameters.values()]
    )
    return KerasModule()


def _output_names(model: Any) -> list[str]:
    """The layers that the outputs come from, where each gives one; else numbers."""
    names = [str(name) for name in getattr(model, "output_names", None) or ()]
    if len(names) == len(model.outputs) and len(set(names)) == len(names):
        return names
    return [f"output_{place}" if place else "output" for place in range(len(model.outputs))]


def _keras() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    try:
        import keras
    except ImportError as error:
        raise MissingExtra("keras", extra="keras") from error
    if tuple(map(int, re.findall(r"\d+", keras.__version__)[:2])) < _OLDEST:
        raise ModelError(
            f"Keras {keras.__version__} may run code that a file holds: it takes 3.14 or later",
            hint="run: pip install 'keras>=3.14'",
        )
    if keras.backend.backend() != "torch":
        raise ModelError(
            f"Keras is at work on {keras.backend.backend()} in this process, and strop opens its "
            "files on PyTorch",
            hint="set KERAS_BACKEND=torch",
        )
    return keras
