"""What the conformance matrix runs in children: a model's own answers, and one engine's."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from strop import engines, models
from strop.errors import StropError
from strop.models.model import Model
from strop.models.sample import random_inputs
from strop.records import Placement, SessionSpec, Signature, Target

Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]

_ALIKE = 1e-6
_NO_INPUTS = ("target", "group", "time")
_MODEL, _INPUTS, _OUTPUTS = "model", "inputs.npz", "outputs.npz"


def reference(
    source: str, folder: str, data: str | None, examples: int, trust: bool
) -> dict[str, Any]:
    """Read a model into the folder, run it in its native runtime, and keep inputs and outputs.

    ``alike`` tells whether other inputs give the same outputs, as they do where all weights are
    one constant: what an engine makes of such a model is no test of its answers.
    """
    place = Path(folder)
    rows = _rows(data, examples)
    try:
        model = models.load(source, workdir=place / _MODEL, trust=trust, examples=rows)
        inputs, where = _inputs(model.signature, data, examples)
        who, run = _native(model)
        outputs = run(inputs)
        alike = _alike(outputs, run, inputs)
    except StropError as error:
        return {"reason": str(error)}
    np.savez(place / _INPUTS, **inputs)  # type: ignore[arg-type]
    np.savez(place / _OUTPUTS, **outputs)  # type: ignore[arg-type]
    return {"reference": who, "examples": where, "alike": alike}


def check(
    engine: str, folder: str, target: dict[str, Any], bound: float, trust: bool
) -> dict[str, Any]:
    """Build the model for an engine, run it once, and compare with what was kept."""
    place, began = Path(folder), time.monotonic()
    told: dict[str, Any] = {"outcome": "refused", "error": None, "reason": ""}
    try:
        found = _run(engine, place, Target.from_dict(target), trust)
        if isinstance(found, str):
            told["reason"] = found
        else:
            with np.load(place / _OUTPUTS) as kept:
                apart = models.parity(dict(kept), found, bound=bound)
            told |= {
                "outcome": "parity" if apart.ok else "differs",
                "error": apart.max_relative_error,
                "reason": "" if apart.ok else str(apart),
            }
    except StropError as error:
        told["reason"] = str(error)
    return {**told, "seconds": round(time.monotonic() - began, 3)}


def _run(engine: str, place: Path, target: Target, trust: bool) -> dict[str, np.ndarray] | str:
    """The outputs, or why the engine does not apply."""
    model = models.load(place / _MODEL, workdir=place / "unused", trust=trust)
    one = engines.get(engine)
    answer = one.applies(model, target)
    if not answer:
        return answer.reason
    options = one.space(model, target).default
    workdir = place / f"artifact-{engine}"
    workdir.mkdir()
    spec = SessionSpec(
        engine=engine,
        artifact=str(one.build(model, options, workdir)),
        signature=model.signature,
        options=options,
        placement=Placement(device=target.device, threads=1),
    )
    payload = model.source.payload if model.source else None
    session = engines.open_session(spec, payload=payload)
    try:
        with np.load(place / _INPUTS) as kept:
            return session.run(dict(kept))
    finally:
        session.close()


def _native(model: Model) -> tuple[str, Run]:
    """What the model's own answers come from, by name and as a function."""
    if "module" in model.forms:
        return "PyTorch, eager", _eager(model)
    if "onnx" in model.forms:
        import onnx

        from strop.models.runner import Runner

        return "ONNX Runtime, basic rewrites", Runner(onnx.load(model.forms["onnx"])).run
    if "tflite" in model.forms:
        from strop.models.tflite_runner import TFLiteRunner

        own = TFLiteRunner(model.forms["tflite"], model.signature, xnnpack=False)
        return "LiteRT, its own kernels", own.run
    forms = ", ".join(model.forms)
    raise StropError(f"it has no form whose own runtime is known here, only: {forms}")


def _eager(model: Model) -> Run:
    import torch

    from strop.models.module_export import as_tensors
    from strop.models.module_form import open_module

    form, module = open_module(model)

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            found = form.run(module.eval(), as_tensors(inputs, form.inputs))
        return {name: value.numpy() for name, value in found.items()}

    return run


def _alike(outputs: dict[str, np.ndarray], run: Run, inputs: dict[str, np.ndarray]) -> bool:
    """Whether other inputs, the same values in another order and floats doubled, change nothing.

    The order alone is not enough: where all weights are equal, a sum stays what it was.
    """
    rng = np.random.default_rng(0)
    others = {
        name: rng.permutation(values.reshape(-1)).reshape(values.shape)
        for name, values in inputs.items()
    }
    others = {
        name: 2 * values if values.dtype.kind == "f" else values for name, values in others.items()
    }
    try:
        return models.parity(outputs, run(others), bound=_ALIKE).ok
    except StropError:  # an order that the model does not take
        return False


def _rows(data: str | None, examples: int) -> dict[str, np.ndarray] | None:
    """The first rows of every array of a data file, from which a module is traced."""
    if data is None:
        return None
    with np.load(data) as arrays:
        names = [name for name in arrays.files if name not in _NO_INPUTS and ":" not in name]
        return {name: arrays[name][:examples] for name in names}


def _inputs(
    signature: Signature, data: str | None, examples: int
) -> tuple[dict[str, np.ndarray], str]:
    """Rows of the data file where its arrays fit, else random values."""
    fixed = [
        spec.shape[0] for spec in signature.inputs if spec.shape and isinstance(spec.shape[0], int)
    ]
    rows = _rows(data, fixed[0] if fixed else examples) or {}
    chosen = {spec.name: rows[spec.name] for spec in signature.inputs if spec.name in rows}
    fits = len(chosen) == len(signature.inputs) and all(
        chosen[spec.name].dtype.name == spec.dtype
        and spec.shape is not None
        and len(spec.shape) == chosen[spec.name].ndim
        and all(
            not isinstance(dim, int) or dim == size
            for dim, size in zip(spec.shape, chosen[spec.name].shape, strict=True)
        )
        for spec in signature.inputs
    )
    if fits and chosen:
        return chosen, Path(str(data)).name
    return random_inputs(signature, rows=examples), "random"
