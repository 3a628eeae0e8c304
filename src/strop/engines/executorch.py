"""ExecuTorch, PyTorch's runtime for devices, with XNNPACK's kernels for the CPU."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from strop.engines._base import Arrays, Engine, Session
from strop.engines._onnx import border_types, has_form
from strop.engines._tensors import as_array, as_tensor
from strop.engines.executorch_lowering import LIMITS, lower
from strop.engines.operators import OperatorTimes
from strop.engines.validation import validate
from strop.errors import InputError, MissingExtra, NotApplicable, StropError
from strop.models.graph import first_line
from strop.models.model import Model
from strop.records import Applicability, Choice, Placement, Signature, Space, Target

_DTYPES = {
    *("float16", "float32", "float64", "bool"),
    *("int8", "int16", "int32", "int64", "uint8"),
}
_DELEGATES = ("xnnpack", "portable")
BATCH, LENGTH = 64, 512
"""The largest first dimension, and the largest other free one, that memory is planned for."""


class ExecuTorch(Engine):
    """Lowers the network to one ``model.pte``: what XNNPACK knows is its, the rest is portable.

    The network comes as ONNX, whatever it was made of, and is made a PyTorch program by strop's
    own converter. A ``.pte`` plans its memory when it is built, for free dimensions up to a
    limit: larger batches go in parts. It runs on phones as it is; what is measured here is this
    machine.

    Options
    -------
    delegate
        ``xnnpack`` (the default), or ``portable``: ExecuTorch's plain kernels alone, which are
        slow and help to find a faulty one.
    batch, length
        The largest first dimension (64) and the largest other free dimension (512).
    """

    name = "executorch"
    consumes = ("onnx",)
    ships = ("executorch",)
    build_seconds = 10.0
    packages = ("executorch", "torch")
    extra = "executorch"
    exact_options = ("delegate", "batch", "length")

    def available(self) -> Applicability:
        for package in ("executorch", "torch"):
            if importlib.util.find_spec(package) is None:
                return Applicability.no(str(MissingExtra(package, extra="executorch")))
        return Applicability.yes()

    def applies(self, model: Model, target: Target) -> Applicability:
        if target.device != "cpu":
            return Applicability.no(f"runs on the CPU only, not on '{target.device}'")
        for answer in (has_form(model, self.consumes), border_types(model.signature, _DTYPES)):
            if not answer:
                return answer
        from strop.models.onnx_converter import convertible

        return convertible(model)

    def space(self, model: Model, target: Target) -> Space:
        choices = [Choice(name="delegate", values=("xnnpack",))]
        if target.batch > BATCH:
            choices.append(Choice(name="batch", values=(target.batch,)))
        return Space(choices=tuple(choices))

    def build(self, model: Model, options: Mapping[str, Any], workdir: Path) -> Path:
        _check(options)
        if "onnx" not in model.forms:
            raise NotApplicable(has_form(model, self.consumes).reason)
        artifact = workdir / "model.pte"
        try:
            lower(
                model,
                artifact,
                xnnpack=options.get("delegate", "xnnpack") == "xnnpack",
                batch=int(options.get("batch", BATCH)),
                length=int(options.get("length", LENGTH)),
            )
        except ImportError as error:
            raise NotApplicable(_mismatch(error)) from error
        return artifact

    def load(
        self,
        artifact: Path,
        signature: Signature,
        options: Mapping[str, Any],
        placement: Placement,
    ) -> Session:
        return _open(artifact, signature, options, placement)

    def profile(
        self,
        artifact: Path,
        signature: Signature,
        options: Mapping[str, Any],
        placement: Placement,
        arrays: Arrays,
        runs: int,
    ) -> OperatorTimes:
        from strop.engines.executorch_profile import profile

        session = _open(artifact, signature, options, placement, traced=True)
        return profile(lambda: session.run(arrays), session.program, artifact, runs)


class _ExecuTorchSession(Session):
    """
    Attributes
    ----------
    program
        The loaded program; None once the session is closed.
    """

    # A program plans the memory of one call.
    thread_safe = False
    concurrency = 1

    def __init__(
        self, program: Any, signature: Signature, limits: Mapping[str, Mapping[int, int]]
    ) -> None:
        self.signature = signature
        self.program = program
        self._limits = limits
        # A larger batch goes in parts of so many rows; none where not all of the border is rows.
        fronts = [limits.get(name, {}).get(0, 0) for name in signature.input_names]
        ends = (*signature.inputs, *signature.outputs)
        first = {spec.shape[0] if spec.shape else None for spec in ends}
        batched = len(first) == 1 and isinstance(next(iter(first)), str)
        self._rows = min(fronts, default=0) if batched else 0

    def run(self, arrays: Arrays) -> dict[str, np.ndarray]:
        if self.program is None:
            raise StropError("the session is closed")
        validate(arrays, self.signature)
        for name, limits in self._limits.items():
            for axis, limit in limits.items():
                if arrays[name].shape[axis] > limit and (axis or not self._rows):
                    raise InputError(
                        f"dimension {axis} of '{name}' is {arrays[name].shape[axis]}, and the "
                        f"program's memory is planned for {limit}",
                        hint="give less at once, or build it with a larger batch or length",
                    )
        rows = len(arrays[self.signature.input_names[0]]) if self._rows else 0
        if rows <= self._rows:
            return self._call(arrays)
        parts = [
            self._call({name: array[start : start + self._rows] for name, array in arrays.items()})
            for start in range(0, rows, self._rows)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _call(self, arrays: Arrays) -> dict[str, np.ndarray]:
        tensors = [as_tensor(arrays[name]) for name in self.signature.input_names]
        try:
            outputs = self.program.forward(tensors)
        except RuntimeError as error:
            raise StropError(f"ExecuTorch fails: {first_line(error)}") from error
        named = zip(self.signature.output_names, outputs, strict=True)
        return {name: as_array(tensor) for name, tensor in named}

    def close(self) -> None:
        self.program = None


def _open(
    artifact: Path,
    signature: Signature,
    options: Mapping[str, Any],
    placement: Placement,
    *,
    traced: bool = False,
) -> _ExecuTorchSession:
    """A session; a `traced` one keeps the times of what it runs, and takes longer for it."""
    _check(options)
    runtime = _runtime()
    limits = _limits(artifact)
    if limits.keys() != set(signature.input_names):
        raise NotApplicable(f"'{LIMITS}' beside '{artifact.name}' is another program's")
    # One pool of threads a process; a session that is timed has a process of its own.
    runtime._unsafe_reset_threadpool(placement.threads)
    try:
        program = runtime._load_for_executorch(str(artifact), enable_etdump=traced)
        program.method_meta("forward")
    except RuntimeError as error:
        raise NotApplicable(f"ExecuTorch cannot load the program: {first_line(error)}") from error
    return _ExecuTorchSession(program, signature, limits)


def _runtime() -> Any:
    """The runtime alone: its public module imports the whole compiler as well."""
    import torch  # noqa: F401 - loads the libraries that the runtime is linked with

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from executorch.extension.pybindings import _C
    except ImportError as error:
        raise NotApplicable(_mismatch(error)) from error
    return _C


def _mismatch(error: ImportError) -> str:
    """Wheels of ExecuTorch fit the release of PyTorch that they were compiled with."""
    return (
        f"ExecuTorch {_version('executorch')} does not load beside PyTorch {_version('torch')}: "
        f"{first_line(error)}; ExecuTorch 1.5 goes with PyTorch 2.13"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


def _limits(artifact: Path) -> dict[str, dict[int, int]]:
    try:
        document = json.loads((artifact.parent / LIMITS).read_bytes())
        return {
            str(name): {int(axis): int(limit) for axis, limit in limits.items()}
            for name, limits in document.items()
        }
    except (OSError, ValueError, AttributeError) as error:
        raise NotApplicable(
            f"'{LIMITS}', which strop writes beside '{artifact.name}', cannot be read: "
            f"{first_line(error)}"
        ) from error


def _check(options: Mapping[str, Any]) -> None:
    known = ExecuTorch.exact_options
    if unknown := options.keys() - set(known):
        raise InputError(
            f"executorch has no option {', '.join(sorted(unknown))}",
            hint=f"known: {', '.join(known)}",
        )
    if (delegate := options.get("delegate", "xnnpack")) not in _DELEGATES:
        raise InputError(
            f"executorch's option delegate is '{delegate}'", hint=f"known: {', '.join(_DELEGATES)}"
        )
    for name in ("batch", "length"):
        if not isinstance(limit := options.get(name, 1), int) or limit < 1:
            raise InputError(
                f"executorch's option {name} is {limit!r}", hint="give a number from 1"
            )
