"""What all post-training quantisers ask of a model before they look at its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strop.models import graph
from strop.models.model import Model
from strop.records import Applicability, Target

if TYPE_CHECKING:
    from onnx import ModelProto


def float_graph(model: Model, target: Target) -> ModelProto | Applicability:
    """The model's ONNX graph, or why it is none for integer kernels on `target`."""
    if "onnx" not in model.forms:
        return Applicability.no("needs an ONNX form")
    if target.device != "cpu":
        return Applicability.no(f"has kernels for the CPU only, not for '{target.device}'")
    proto = graph.read(model.forms["onnx"])
    if graph.is_quantised(proto):
        return Applicability.no("already quantised")
    if foreign := graph.custom_domains(proto):
        return Applicability.no(f"custom operators of {', '.join(foreign)}")
    return proto
