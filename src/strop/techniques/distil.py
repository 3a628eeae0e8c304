"""Distillation: a smaller network learns from the original."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from strop.errors import ModelError, NotApplicable
from strop.models import graph
from strop.models.model import Model
from strop.records import Applicability, Choice, Space, Step, Target
from strop.techniques._base import Context, Technique
from strop.techniques.fixed_batch import fixed_batch
from strop.techniques.shrinking import can_shrink
from strop.techniques.teaching import train_settings

_TRACED, _COMPARED = 2, 32
_CHECKED = 8
_LEAST_STEPS = 400
_COPIES = ("narrow", "shallow")
_NETWORKS = ("narrow-0.25", "narrow-0.5", "shallow-0.5", "same")
_ENCODERS = ("shallow-0.67", "same")
"""Where one stream runs through all layers, fewer channels cut into every one of them at once: half
as many cost MiniLM a tenth of its cosine, and half the layers nearly as much."""
_ENCODER_RATES = (1e-4, 3e-4, 1e-3)
"""Peaks tried for what was pretrained on far more than there is here: higher ones undo that."""
_SHRINKING = ("prune", "merge-tokens")
"""Techniques that make the network smaller before this one: their result is the student."""


class Distillation(Technique):
    """Soft targets as in Hinton, Vinyals and Dean (2015, arXiv:1503.02531).

    Parameters of the space
    -----------------------
    student
        ``same``: the network that an earlier step made smaller; ``narrow-0.5``: a copy with that
        share of every layer's channels; ``shallow-0.5``: a copy with that share of its residual
        blocks; anything else: the user's own, named after its file (``--student``).
    transfer
        What is matched inside the networks besides their outputs
        (`strop.training.TrainSettings`).
    temperature, labels
        Softness of the targets, and the labels' share in the loss where there are labels.
    rows
        Which of the training examples: ``auto``, ``all``, ``coreset`` or ``random``
        (`strop.training.TrainSettings`).
    seconds
        Of training, for a step that has other than its share of the time; absent otherwise.
    """

    name = "distil"
    version = 8
    consumes = "module"
    produces = ("module", "onnx")
    roles = ("train", "search")
    packages = ("torch", "torch-pruning")
    stage = 4

    def applies(self, model: Model, target: Target) -> Applicability:
        return can_shrink(model)

    def space(self, model: Model, target: Target) -> Space:
        own = model.meta.get("student")
        encoder = _is_encoder(model)
        students = _ENCODERS if encoder else _NETWORKS
        return Space(
            choices=(
                Choice(name="student", values=(own, "same") if own else students),
                Choice(name="transfer", values=("features" if encoder and not own else "none",)),
                Choice(name="temperature", values=(4.0,)),
                Choice(name="labels", values=(0.3,)),
                Choice(name="rows", values=("auto",)),
            )
        )

    def follows(self, earlier: Sequence[Step], params: Mapping[str, Any]) -> bool:
        shrunk = any(step.technique in _SHRINKING for step in earlier)
        return shrunk == bool(params["student"] == "same")

    def further(self, earlier: Sequence[Step], seconds: float) -> Mapping[str, Any] | None:
        last = earlier[-1]
        if last.technique not in (self.name, *_SHRINKING):
            return None
        shared = ("transfer", "temperature", "labels", "rows")
        taught = {name: last.params[name] for name in shared if name in last.params}
        return {"transfer": "none", **taught, "student": "same", "seconds": seconds}

    def apply(self, model: Model, params: Mapping[str, Any], ctx: Context) -> Model:
        from strop.models.module_form import open_module
        from strop.models.module_writer import write_module
        from strop.training import TrainSettings, train

        if ctx.teacher is None:
            raise NotApplicable("needs the original to learn from")
        data = ctx.data["train"]
        form, teacher = open_module(ctx.teacher)
        student, ops = self._student(model, str(params["student"]), ctx)
        batch = fixed_batch(model.signature) or TrainSettings.batch
        pretrained = _is_encoder(model) and not _is_own(params)
        settings = train_settings(
            model,
            data,
            params,
            ctx,
            # Few examples are gone through more often: it takes steps to learn.
            epochs=max(TrainSettings.epochs, _LEAST_STEPS * batch / len(data)),
            # What lies between layers has other tokens than the teacher's once some are merged.
            transfer="none" if "merged_tokens" in model.meta else params["transfer"],
            examples=_rows(params),
            rates=_ENCODER_RATES if pretrained else TrainSettings.rates,
        )
        report = train(
            student,
            form=form,
            teacher=teacher,
            data=data,
            settings=settings,
            workdir=(ctx.keep or ctx.workdir / "scratch") / "distil",
            deadline=ctx.deadline,
            seed=ctx.seed,
            emit=ctx.emit,
            judge=ctx.data.get("search"),
            metric=ctx.metric,
        )
        shutil.rmtree(ctx.workdir / "scratch", ignore_errors=True)  # no part of the model
        facts = {"student": params["student"], **report.facts()}
        if self.name in model.meta:  # this student has been taught before
            facts["earlier"] = model.meta[self.name]
        rows = np.arange(min(_CHECKED, len(data)))
        try:
            return write_module(
                student,
                model,
                ops,
                ctx.workdir,
                examples=data.inputs(rows),
                meta={self.name: facts},
                emit=ctx.emit,
            )
        except ModelError as error:
            raise NotApplicable(f"the student cannot be exported: {error.message}") from error

    def _student(self, model: Model, kind: str, ctx: Context) -> tuple[Any, list[dict[str, Any]]]:
        """The student, and the operations that make it from the module of `model`."""
        from strop.models import module_plan
        from strop.models.module_export import as_tensors
        from strop.models.module_form import open_module
        from strop.techniques.narrow import narrower
        from strop.techniques.shallow import shallower

        form, module = open_module(model)
        if kind == "same":
            return module, []
        name, _, share = kind.partition("-")
        data = ctx.data["train"]
        rows = np.arange(min(_TRACED, len(data)))
        inputs = as_tensors(data.inputs(rows), form.inputs)
        if name == "narrow":
            op = narrower(module, form, inputs, float(share))
        elif name == "shallow":
            shuffled = np.random.default_rng([ctx.seed, 23]).permutation(len(data))
            rows = np.sort(shuffled[: fixed_batch(model.signature) or _COMPARED])
            examples = as_tensors(data.inputs(rows), form.inputs)
            op = shallower(module, form, inputs, float(share), examples)
        elif ctx.student is not None:
            op = module_plan.student_op(ctx.student)
        else:
            raise NotApplicable(f"the student '{kind}' is not at hand")
        return module_plan.apply_plan(module, [op]), [op]


def _is_encoder(model: Model) -> bool:
    """Whether it is made of attention: softmax between products, and no convolution."""
    if "onnx" not in model.forms:
        return False
    found = graph.operators(graph.read(model.forms["onnx"]))
    return "Softmax" in found and "MatMul" in found and "Conv" not in found


def _rows(params: Mapping[str, Any]) -> Any:
    """Which examples; a network that knows nothing yet learns little from the hard ones alone."""
    chosen = params.get("rows", "auto")
    return "all" if _is_own(params) and chosen == "auto" else chosen


def _is_own(params: Mapping[str, Any]) -> bool:
    """Whether the student is a module of the user's own, which has learnt nothing."""
    student = params["student"]
    return student != "same" and student.partition("-")[0] not in _COPIES
