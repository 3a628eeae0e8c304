"""INT8 with the network trained to bear it: the graph of `int8-static`, its steps learned."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from strop.errors import NotApplicable
from strop.models import graph
from strop.models.model import Model
from strop.models.parity import relative_errors
from strop.records import Applicability, Choice, Space, Target
from strop.techniques._base import Context, Technique
from strop.techniques.calibration import digest_of, open_session
from strop.techniques.calibration_rows import Rows
from strop.techniques.fixed_batch import fixed_batch
from strop.techniques.folding import prepare
from strop.techniques.int8_static import Quantiser, Start, StaticINT8, calibration_key, weight_bits
from strop.techniques.onnx_view import GraphView
from strop.techniques.quantisable import plan
from strop.techniques.teaching import train_settings

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn

    from strop.models.module_form import ModuleForm
    from strop.techniques.fake_quant import FakeQuantised

START = {
    "calibrator": "mse",
    "rounding": "compensated",
    "bias_correction": True,
    "smooth": 0.0,
    "equalise": "none",
    "rank": "error",
    # Constants that are stored as integers have no rounding to be learned.
    "reach": "narrow",
}
"""How `int8-static` rounds what training begins with: as well as rounding can without training."""
KEPT_IN_FLOAT = (0.0, 0.1)
"""Shares of the layers that are tried in float. With a tenth, EfficientNet-Lite0's decisions are
13% nearer to the original's (KL divergence, before training) than with a twentieth."""
BOUND, UNSTEADY = 0.02, 1.5
"""How far the integer graph may lie from what was trained, relative to each example's outputs: so
much, or so many times what the last bits of float32 sums alone change in the network itself.

They round at the same places with the same steps; what differs is the order of summation, which
now and then carries a value over a rounding edge to the next step. Where layers amplify a step,
fifty of them turn ten such values in a million into half of all there are (EfficientNet-Lite0).
"""
_LAST_BITS = 1e-6
"""Relative error of a float32 sum over some hundreds of terms."""
EPOCHS = 20.0
"""Passes over the training rows at most: the network is nearly what it should be from the start."""
RATES = (3e-5, 1e-4, 3e-4, 1e-3)
"""Peaks that are tried: the weights are where they should be, and are only to settle."""
_BATCH, _LEAST_BATCH = 32, 16
_COMPARED = 64


class QuantisationAware(Technique):
    """Weights and activations in INT8 with steps that training has learned, as a QDQ graph.

    The float graph, its batch normalisations folded and frozen, is run in torch with every
    rounding that the integer graph has (`strop.techniques.quantisable` decides where), and
    trained to give the original's outputs; labels help where there are some. It begins with the
    weights, ranges and biases that `int8-static` would write, so that training wins back what
    rounding alone could not. What is written is the graph that was trained.

    Parameters of the space
    -----------------------
    keep_float
        Share of the layers kept in float, those that rounding without training costs most.
    temperature
        Of the distillation loss, for outputs that are scores of classes.
    labels
        Share of the labels in the loss, where there are labels.
    rows
        Which of the training examples, as in `distil`.
    """

    name = "qat"
    version = 8
    consumes = "onnx"
    produces = ("onnx",)
    roles = ("train", "search")
    packages = ("onnx", "onnxruntime", "torch")
    stage = 6
    family = "int8"

    def applies(self, model: Model, target: Target) -> Applicability:
        verdict = StaticINT8().applies(model, target)
        if not verdict:
            return verdict
        if find_spec("torch") is None:
            return Applicability.no("needs PyTorch: pip install strop[train]")
        return Applicability.yes()

    def space(self, model: Model, target: Target) -> Space:
        count = len(plan(GraphView(prepare(graph.read(model.forms["onnx"])))).layers)
        shares = tuple(share for share in KEPT_IN_FLOAT if not share or share * count >= 1)
        return Space(
            choices=(
                Choice(name="keep_float", values=shares),
                Choice(name="temperature", values=(4.0,)),
                Choice(name="labels", values=(0.3,)),
                Choice(name="rows", values=("auto",)),
            )
        )

    def apply(self, model: Model, params: Mapping[str, Any], ctx: Context) -> Model:
        from strop.models.onnx_converter import form_of, to_module
        from strop.techniques.fake_quant import FakeQuantised
        from strop.training import train

        data = ctx.data["train"]
        network = prepare(graph.read(model.forms["onnx"]))
        batch = fixed_batch(model.signature)
        bits = weight_bits(ctx.target)
        kept, start = _start(network, model, float(params["keep_float"]), bits, ctx)
        student = FakeQuantised(
            start.network, start.plan, start.ranges, bits=bits, scales=start.scales
        )
        teacher_model = ctx.teacher or model
        if "onnx" not in teacher_model.forms:
            raise NotApplicable("the original has no ONNX form to learn from")
        teacher = to_module(teacher_model.forms["onnx"])
        form = form_of(model.signature)
        inputs = data.inputs(np.arange(batch or _COMPARED) % len(data))
        _exported(student, form, inputs)  # or training would be for nothing
        settings = train_settings(
            model,
            data,
            params,
            ctx,
            form="onnx",
            epochs=EPOCHS,
            least_batch=batch or _LEAST_BATCH,
            rates=RATES,
        )
        report = train(
            student.module,
            form=form,
            teacher=teacher,
            data=data,
            settings=settings,
            workdir=(ctx.keep or ctx.workdir / "scratch") / "qat",
            deadline=ctx.deadline,
            seed=ctx.seed,
            emit=ctx.emit,
            judge=ctx.data.get("search"),
            metric=ctx.metric,
        )
        result, error = _exported(student, form, inputs)
        # Before the digest is taken: it is over everything in the directory.
        shutil.rmtree(ctx.workdir / "scratch", ignore_errors=True)
        graph.write(result, ctx.workdir / "onnx" / "model.onnx")
        return Model.seal(
            ctx.workdir,
            model.signature,
            meta={
                **model.meta,
                "quantised": True,
                "weight_bits": bits,
                "int8_layers": [layer.name for layer in start.plan.layers],
                "float_layers": sorted(kept),
                "qat": {**report.facts(), "disagreement": round(error, 6)},
            },
        )


def disagreement(
    trained: nn.Module, form: ModuleForm, exported: ModelProto, inputs: Mapping[str, np.ndarray]
) -> float:
    """How far the integer graph on ONNX Runtime lies from the network that was trained.

    Returns
    -------
    The median over the examples of ‖difference‖₂ / ‖trained‖₂, of the output where it is largest.
    """
    import torch

    with torch.inference_mode():
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in inputs.items()}
        expected = form.run(trained.eval(), tensors)
    session = open_session(exported)
    names = [entry.name for entry in session.get_outputs()]
    found = dict(zip(names, session.run(names, dict(inputs)), strict=True))
    return _apart(expected, found)


def unsteadiness(
    module: nn.Module, form: ModuleForm, inputs: Mapping[str, np.ndarray], seed: int = 0
) -> float:
    """How far the network lies from itself when the last bits of its layers' sums change.

    Returns
    -------
    As :func:`disagreement` measures it.
    """
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(seed)

    def jolt(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(output.shape, generator=generator).to(output.device)
        return output * (1 + _LAST_BITS * noise)

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    layers = [part for part in module.modules() if isinstance(part, kinds)]
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in inputs.items()}
    with torch.inference_mode():
        steady = form.run(module.eval(), tensors)
        hooks = [layer.register_forward_hook(jolt) for layer in layers]
        try:
            jolted = form.run(module, tensors)
        finally:
            for hook in hooks:
                hook.remove()
    return _apart(steady, {name: value.numpy() for name, value in jolted.items()})


def _apart(expected: Mapping[str, Any], found: Mapping[str, np.ndarray]) -> float:
    """The median relative error over the examples, of the output where it is largest."""
    return max(
        float(np.median(relative_errors(value.numpy(), np.asarray(found[name]))))
        for name, value in expected.items()
        if value.is_floating_point()
    )


def _exported(
    student: FakeQuantised, form: ModuleForm, inputs: Mapping[str, np.ndarray]
) -> tuple[ModelProto, float]:
    """The integer graph, and how far it lies from the module; refused where that is too far."""
    graph = student.export()
    error = disagreement(student.module, form, graph, inputs)
    if error <= BOUND:
        return graph, error
    bound = max(BOUND, UNSTEADY * unsteadiness(student.module, form, inputs))
    if not error <= bound:
        raise NotApplicable(
            f"the integer graph differs from what is trained by {error:.2g} of the outputs, "
            f"more than {bound:.2g}"
        )
    return graph, error


def _start(
    network: ModelProto, model: Model, share: float, bits: int, ctx: Context
) -> tuple[list[str], Start]:
    """The layers that stay in float, and what rounding after training makes of the others."""
    rows = Rows.of(model, ctx.data["train"], ctx.seed)
    quantiser = Quantiser(network, rows.batches, rows.sample(), START, bits=bits, ctx=ctx)
    key = calibration_key(model.digest, digest_of(rows.batches), START, bits)
    kept = quantiser.most_sensitive(share, key)
    return kept, quantiser.start(kept)
