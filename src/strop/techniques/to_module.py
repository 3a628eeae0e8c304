"""ONNX to a PyTorch module, for the techniques that train."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from strop.models import graph, module_plan
from strop.models.model import Model
from strop.models.onnx_converter import convertible, form_of, to_module
from strop.models.onnx_importer import few_examples
from strop.records import Applicability, Space, Target
from strop.techniques._base import Context, Technique

_ROWS = 2


class ToModule(Technique):
    """Adds a module form to a model that came as ONNX (`strop.models.onnx_converter`).

    It changes nothing by itself and is only proposed in front of techniques that take a module.
    The ONNX form stays as it is, and so does the runtime that speed is held against.
    """

    name = "to-module"
    version = 1
    consumes = "onnx"
    produces = ("module", "onnx")
    roles = ("calibrate",)
    packages = ("torch",)
    exact = True
    stage = 1
    prepares = True

    def applies(self, model: Model, target: Target) -> Applicability:
        if "module" in model.forms:
            return Applicability.no("the model has a PyTorch module already")
        return convertible(model)

    def space(self, model: Model, target: Target) -> Space:
        return Space()

    def apply(self, model: Model, params: Mapping[str, Any], ctx: Context) -> Model:
        source = model.forms["onnx"]
        examples = ctx.data["calibrate"].inputs(np.arange(min(_ROWS, len(ctx.data["calibrate"]))))
        proto = graph.read(source)
        module = to_module(proto, examples=few_examples(model.signature, examples, None, _ROWS))
        layers = sum(1 for node in module.graph.nodes if node.op == "call_module")
        ctx.emit(f"{len(proto.graph.node)} operators, {layers} of them as layers")
        shutil.copytree(source.parent, ctx.workdir / "onnx")
        form = form_of(model.signature, plan=(module_plan.CONVERT,))
        form.write(ctx.workdir / "module" / "module.json")
        graph.write(proto, ctx.workdir / "module" / module_plan.BASE)
        return Model.seal(ctx.workdir, model.signature, meta={**model.meta, "converted": True})


def has_module(model: Model) -> Applicability:
    """Whether a technique that takes a module can have one: the user's own, or a converted one."""
    return Applicability.yes() if "module" in model.forms else convertible(model)
