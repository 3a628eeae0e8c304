"""What the conformance matrix runs in children: a model's own answers, and one engine's."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from strop import engines, models
from strop.bundle.sample import read_arrays, write_arrays
from strop.data import peek
from strop.errors import StropError
from strop.models.model import Model
from strop.models.sample import random_inputs
from strop.records import Placement, SessionSpec, Signature, Target

Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]

_ALIKE = 1e-6
_MODEL, _INPUTS, _OUTPUTS = "model", "inputs.npz", "outputs.npz"
_MARK = "array/"


def reference(
    source: str, folder: str, data: str | None, examples: int, trust: bool
) -> dict[str, Any]:
    """Read a model into the folder, run it in its native runtime, and keep inputs and outputs.

    ``alike`` tells whether other inputs give the same outputs, as they do where all weights are
    one constant: what an engine makes of such a model is no test of its answers.
    """
    place = Path(folder)
    try:
        rows = None if data is None else peek(data, examples)
        model = models.load(source, workdir=place / _MODEL, trust=trust, examples=rows)
        if not (place / _MODEL).exists():  # it was a sealed model, and stays where it is
            shutil.copytree(model.path, place / _MODEL)
        inputs, where = _inputs(model.signature, data, examples)
        who, run = _native(model)
        outputs = run(inputs)
        alike = _alike(outputs, run, inputs)
    except StropError as error:
        return {"reason": str(error)}
    _keep(place / _INPUTS, inputs)
    _keep(place / _OUTPUTS, outputs)
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
            apart = models.parity(_kept(place / _OUTPUTS), found, bound=bound)
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
        return session.run(_kept(place / _INPUTS))
    finally:
        session.close()


def _keep(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays by name: any name that a model may have, those of NumPy's parameters too."""
    write_arrays(path, {f"{_MARK}{name}": array for name, array in arrays.items()})


def _kept(path: Path) -> dict[str, np.ndarray]:
    return {name.removeprefix(_MARK): array for name, array in read_arrays(path).items()}


def _native(model: Model) -> tuple[str, Run]:
    """What the model's own answers come from, by name and as a function."""
    if "module" in model.forms:
        return "PyTorch, eager", _eager(model)
    if "onnx" in model.forms:
        import onnx

        from strop.models.runner import Runner

        return "ONNX Runtime, basic rewrites", Runner(onnx.load(model.forms["onnx"])).run
    if "tflite" in model.forms and engines.get("litert").available():
        from strop.models.tflite_runner import TFLiteRunner

        plain = TFLiteRunner(model.forms["tflite"], model.signature, xnnpack=False)
        return "LiteRT, its own kernels", plain.run
    if "openvino" in model.forms:
        # Its frontend alone has read the model: what is checked is what was written of that.
        placement = Placement(threads=1)
        own = engines.get("openvino").load(model.forms["openvino"], model.signature, {}, placement)
        return "OpenVINO, as it was read", own.run
    forms = ", ".join(model.forms)
    raise StropError(f"it has no form whose own runtime is known here, only: {forms}")


def _eager(model: Model) -> Run:
    import torch

    from strop.models.module_export import as_arrays, as_tensors
    from strop.models.module_form import open_module

    form, module = open_module(model)

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            found = form.run(module.eval(), as_tensors(inputs, form.inputs))
        return as_arrays(found)

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


def _inputs(
    signature: Signature, data: str | None, examples: int
) -> tuple[dict[str, np.ndarray], str]:
    """Rows of the data file where its arrays fit, else random values."""
    fixed = [
        spec.shape[0] for spec in signature.inputs if spec.shape and isinstance(spec.shape[0], int)
    ]
    rows = {} if data is None else peek(data, fixed[0] if fixed else examples)
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
