"""`.tflite` files: kept as they are for LiteRT, and read by OpenVINO's frontend where it can.

There is no onnx form: no converter to ONNX is maintained any more. Techniques that read ONNX do
not apply, and say so.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from strop.errors import ModelError, NotApplicable
from strop.models import tflite_file
from strop.models.convert import conversion_reason, read_network, save_ir
from strop.models.model import Model
from strop.models.parity import parity
from strop.models.sample import random_inputs
from strop.models.tflite_file import TFLiteFile
from strop.models.tflite_runner import TFLiteRunner
from strop.records import Signature

Arrays = Mapping[str, np.ndarray]
Run = Callable[[Arrays], dict[str, np.ndarray]]

_ONNX_ERROR = "needs an ONNX form, and no maintained converter makes one of a .tflite file"
_CHUNKS = 3
_BATCH = "batch"


def import_tflite(
    path: Path, workdir: Path, *, emit: Callable[[str], None] = lambda line: None
) -> Model:
    """The `.tflite` file at `path` as a sealed model.

    The tflite form is the file itself, byte for byte; the openvino form is there where OpenVINO
    is installed and reads it. A fixed batch becomes free where every runtime at hand computes
    each row alone.

    Notes
    -----
    ``meta`` tells ``custom_operators``, ``scales`` (inputs and outputs that hold quantised
    integers), ``batch`` (as :func:`strop.models.batch.free_batch` does), ``litert_error`` and
    ``openvino_error`` (why that runtime does not read it).

    Raises
    ------
    ModelError
        When it is no `.tflite` file, or no runtime at hand can run it: the text names the custom
        operator that is in the way.
    """
    facts = tflite_file.read(path)
    if facts.others:
        taken = f"'{facts.chosen}'" if facts.chosen else "the main graph itself"
        emit(f"of the signatures {taken} is read, and {', '.join(facts.others)} left aside")
    errors: dict[str, str] = {}
    runs: dict[str, Run] = {}
    network = None
    with _noted(errors, "litert"):
        runs["litert"] = _litert(path, facts.signature).run
    with _noted(errors, "openvino"):
        network = _openvino(path)
        runs["openvino"] = _compiled(network, facts)
    if not runs:
        raise _unreadable(path, facts, errors)
    for name, reason in errors.items():
        emit(f"{name}: {reason}")
    signature, batch = _free_batch(facts, runs, path, network)
    changes = [f"the fixed batch of {batch['declared']} is free now"] if batch["freed"] else []
    if batch["reason"]:
        emit(f"the batch stays fixed: {batch['reason']}")
    for line in changes:
        emit(line)
    copy = workdir / "tflite" / "model.tflite"
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, copy)
    if "openvino" in runs:
        if batch["freed"]:
            _free(network)
        save_ir(network, _in_order(network, facts, signature), workdir)
    return Model.seal(
        workdir,
        signature,
        meta={
            "original_format": "tflite",
            "file_name": path.name,
            "producer": facts.producer,
            "signature_key": facts.chosen,
            "custom_operators": list(facts.custom),
            "quantised": facts.quantised,
            "scales": {name: asdict(scale) for name, scale in facts.scales.items()},
            "batch": batch,
            "changes": changes,
            "onnx_error": _ONNX_ERROR,
            **{f"{name}_error": reason for name, reason in errors.items()},
        },
    )


@contextlib.contextmanager
def _noted(errors: dict[str, str], name: str) -> Iterator[None]:
    try:
        yield
    except NotApplicable as error:
        errors[name] = error.message


def _litert(path: Path, signature: Signature) -> TFLiteRunner:
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise NotApplicable("LiteRT is not installed; run: pip install 'strop[litert]'")
    return TFLiteRunner(path, signature)


def _openvino(path: Path) -> Any:
    if importlib.util.find_spec("openvino") is None:
        raise NotApplicable("OpenVINO is not installed; run: pip install 'strop[openvino]'")
    try:
        return read_network(path)
    except Exception as error:  # OpenVINO raises RuntimeError and its own kinds
        raise NotApplicable(
            f"OpenVINO cannot read the .tflite file: {conversion_reason(error)}"
        ) from error


def _compiled(network: Any, facts: TFLiteFile) -> Run:
    """The network as OpenVINO runs it, by the names of the signature."""
    import openvino

    named = _in_order(network, facts, facts.signature)
    try:
        compiled = openvino.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        raise NotApplicable(
            f"OpenVINO cannot compile the .tflite file: {conversion_reason(error)}"
        ) from error

    def run(arrays: Arrays) -> dict[str, np.ndarray]:
        try:
            values = compiled([arrays[name] for name in named.input_names])
        except RuntimeError as error:
            raise NotApplicable(f"OpenVINO fails: {conversion_reason(error)}") from error
        return {name: values[place] for place, name in enumerate(named.output_names)}

    return run


def _in_order(network: Any, facts: TFLiteFile, signature: Signature) -> Signature:
    """`signature` with its tensors in the order of OpenVINO's ports, which go by tensors' names."""

    def order(ports: Any, tensors: tuple[str, ...], specs: Any) -> tuple[Any, ...]:
        if len(ports) != len(tensors):
            raise NotApplicable(
                f"OpenVINO's reading has {len(ports)} tensors where the file has {len(tensors)}"
            )
        places = [
            [place for place, tensor in enumerate(tensors) if tensor in port.get_names()]
            for port in ports
        ]
        # One tensor under two names, or names that repeat: only the order tells them apart.
        if sorted(place for found in places for place in found) != list(range(len(tensors))):
            return tuple(specs)
        return tuple(specs[place] for found in places for place in found)

    return Signature(
        inputs=order(network.inputs, facts.input_tensors, signature.inputs),
        outputs=order(network.outputs, facts.output_tensors, signature.outputs),
    )


def _unreadable(path: Path, facts: TFLiteFile, errors: Mapping[str, str]) -> ModelError:
    missing = [name for name, reason in errors.items() if "not installed" in reason]
    if len(missing) == len(errors):
        return ModelError(
            f"'{path.name}' needs LiteRT or OpenVINO, and neither is installed",
            hint="run: pip install 'strop[litert]'",
        )
    if facts.custom:
        names = ", ".join(f"'{name}'" for name in facts.custom)
        tried = " and ".join(
            label
            for name, label in (("litert", "LiteRT"), ("openvino", "OpenVINO"))
            if name not in missing
        )
        return ModelError(
            f"'{path.name}' uses the custom operator {names}, which {tried} "
            f"{'do' if ' and ' in tried else 'does'} not have",
            hint="export it with the format's own operators alone (no Flex, no custom ones)",
        )
    reasons = "; ".join(reason for name, reason in errors.items() if name not in missing)
    return ModelError(f"'{path.name}' cannot be run: {reasons}", hint="export it again")


def _free_batch(
    facts: TFLiteFile, runs: Mapping[str, Run], path: Path, network: Any
) -> tuple[Signature, dict[str, Any]]:
    """The signature with its batch free, if every runtime then gives each row what it gave alone.

    Converters fix the batch at 1 unless told otherwise, although few networks depend on it.
    """
    signature = facts.signature
    ends = (*signature.inputs, *signature.outputs)
    fronts = {spec.shape[0] if spec.shape else None for spec in ends}
    declared = next(iter(fronts)) if len(fronts) == 1 else None
    closed = all(isinstance(dim, int) for spec in ends for dim in spec.shape or (None,))
    if not signature.inputs or not closed or not isinstance(declared, int):
        open_front = all(isinstance(front, str) for front in fronts)
        reason = "" if open_front else "inputs and outputs do not share a first dimension"
        return signature, {"declared": None, "freed": False, "reason": reason}
    try:
        chunks = [_random(facts, seed) for seed in range(_CHUNKS)]
    except ModelError as error:  # of a type, or a size, that nothing can be tried with
        return signature, {"declared": declared, "freed": False, "reason": error.message}
    together = {
        name: np.concatenate([chunk[name] for chunk in chunks]) for name in signature.input_names
    }
    freed: dict[str, Run] = {}
    try:
        if "litert" in runs:
            freed["litert"] = TFLiteRunner(path, signature).run
        if "openvino" in runs:
            free = network.clone()
            _free(free)
            freed["openvino"] = _compiled(free, facts)
        for name, run in freed.items():
            alone = [runs[name](chunk) for chunk in chunks]
            expected = {end: np.concatenate([one[end] for one in alone]) for end in alone[0]}
            if not (found := parity(expected, run(together))).ok:
                raise NotApplicable(f"{name} gives rows that depend on the others: {found}")
    except (NotApplicable, RuntimeError) as error:
        reason = error.message if isinstance(error, NotApplicable) else conversion_reason(error)
        return signature, {"declared": declared, "freed": False, "reason": reason}
    loose = Signature(
        inputs=tuple(_with_symbol(spec) for spec in signature.inputs),
        outputs=tuple(_with_symbol(spec) for spec in signature.outputs),
    )
    return loose, {"declared": declared, "freed": True, "reason": ""}


def _with_symbol(spec: Any) -> Any:
    return spec.model_copy(update={"shape": (_BATCH, *spec.shape[1:])})


def _free(network: Any) -> None:
    """Leave the first dimension of every input open, in place."""
    shapes = {}
    for place, port in enumerate(network.inputs):
        shape = port.get_partial_shape()
        shape[0] = -1
        shapes[place] = shape
    network.reshape(shapes)


def _random(facts: TFLiteFile, seed: int) -> dict[str, np.ndarray]:
    """One batch; quantised inputs take all their integers, where 0 and 1 would be next to equal."""
    arrays = random_inputs(facts.signature, seed=seed)
    rng = np.random.default_rng(seed)
    for spec in facts.signature.inputs:
        if spec.name in facts.scales:
            limits = np.iinfo(spec.dtype)
            arrays[spec.name] = rng.integers(
                limits.min, limits.max, arrays[spec.name].shape, spec.dtype, endpoint=True
            )
    return arrays
