"""What every technique that makes a module itself smaller needs: a module, its export, packages."""

from __future__ import annotations

import importlib.util

from strop.errors import MissingExtra
from strop.models.model import Model
from strop.records import Applicability
from strop.techniques.to_module import has_module

PACKAGES = ("torch", "safetensors", "torch-pruning")


def can_shrink(model: Model) -> Applicability:
    """Whether the model has, or can be given, a float module that is exported again afterwards."""
    for package in PACKAGES:
        if importlib.util.find_spec(package.replace("-", "_")) is None:
            return Applicability.no(str(MissingExtra(package, extra="train")))
    if not (verdict := has_module(model)):
        return verdict
    if "onnx" not in model.forms:
        reason = model.meta.get("export_error", "no ONNX form")
        return Applicability.no(
            f"cannot be exported to ONNX: {reason}; what is left are the engines that run PyTorch"
        )
    if model.meta.get("quantised"):
        return Applicability.no("already quantised")
    return Applicability.yes()
