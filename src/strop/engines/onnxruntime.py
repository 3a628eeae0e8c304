"""ONNX Runtime, on the CPU and on whatever its execution providers reach."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from strop.engines._base import Arrays, Engine, Session
from strop.engines._onnx import NUMBERS, border_types, has_form, known_domains
from strop.engines.onnxruntime_devices import RECORD, assert_used, providers, serves, serving
from strop.engines.operators import OperatorTimes
from strop.engines.validation import validate
from strop.errors import InputError, NotApplicable, StropError
from strop.models.model import Model
from strop.records import Applicability, Choice, Placement, Signature, Space, Target

_DOMAINS = {
    "",
    "ai.onnx.ml",
    "ai.onnx.training",
    "ai.onnx.preview",
    "ai.onnx.preview.training",
    "com.microsoft",
    "com.microsoft.nchwc",
}
_LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "off": "ORT_DISABLE_ALL",
}


class OnnxRuntime(Engine):
    """Runs the ONNX file as it is; graph optimisation happens on the machine that loads it.

    Options
    -------
    graph
        ``all`` (the default) adds the NCHWc layout to ``extended``'s fusions; ``basic`` and
        ``off`` help to find a faulty fusion.
    spinning
        Whether idle threads busy-wait for work: True (the default) answers sooner, False leaves
        the cores to others.
    arena
        Whether freed tensors stay with the runtime: False costs time and saves memory.
    flush_denormals
        Whether numbers below 1e-38 count as zero; False by default.
    fastmath
        FP32 matrix products in BF16 on ARM; changes the numbers, False by default.
    provider
        On another device than the CPU, which of its providers: ``CUDA`` (the default there),
        ``Tensorrt``, ``QNN``, ``CoreML``, ``Dml``, ``VitisAI`` …, as this installation reports
        them. Only CUDA's is known to keep FP32.
    tf32
        Whether CUDA's FP32 products may be TF32; changes the numbers, False by default.
    """

    name = "onnxruntime"
    consumes = ("onnx",)
    packages = ("onnxruntime",)
    extra = ""  # a core dependency
    streams = True
    exact_options = ("graph", "spinning", "arena", "flush_denormals", "provider")

    def available(self) -> Applicability:
        if importlib.util.find_spec("onnxruntime") is None:
            return Applicability.no(
                "the package 'onnxruntime' is not installed; run: pip install onnxruntime"
            )
        return Applicability.yes()

    def applies(self, model: Model, target: Target) -> Applicability:
        if target.device != "cpu" and not (answer := serves(target.device)):
            return answer
        for answer in (
            has_form(model, self.consumes),
            border_types(model.signature, {*NUMBERS, "str"}),
        ):
            if not answer:
                return answer
        return known_domains(model.forms["onnx"], _DOMAINS)

    def space(self, model: Model, target: Target) -> Space:
        if target.device != "cpu":
            found = serving(target.device)
            choices = [Choice(name="provider", values=found)]
            if found == ("CUDA",):
                choices.append(Choice(name="tf32", values=(False, True)))
            return Space(choices=tuple(choices))
        choices = [Choice(name="graph", values=("all", "extended"))]
        if target.thread_count > 1:
            choices.append(Choice(name="spinning", values=(True, False)))
        if target.goal == "memory":
            choices.append(Choice(name="arena", values=(True, False)))
        elif target.machine.architecture in ("aarch64", "arm64") and "bf16" in target.machine.isa:
            choices.append(Choice(name="fastmath", values=(False, True)))
        return Space(choices=tuple(choices))

    def is_exact(self, options: Mapping[str, Any]) -> bool:
        switches = ("fastmath", "tf32")
        rest = {name: value for name, value in options.items() if name not in switches}
        return (
            super().is_exact(rest)
            and not any(options.get(name, False) for name in switches)
            and options.get("provider", "CUDA") == "CUDA"
        )

    def build(self, model: Model, options: Mapping[str, Any], workdir: Path) -> Path:
        _session_options(options, Placement())
        if "onnx" not in model.forms:
            raise NotApplicable(has_form(model, self.consumes).reason)
        # Everything in the form's folder: external data lie beside the file that names them.
        shutil.copytree(model.forms["onnx"].parent, workdir, dirs_exist_ok=True)
        return workdir / model.forms["onnx"].name

    def load(
        self,
        artifact: Path,
        signature: Signature,
        options: Mapping[str, Any],
        placement: Placement,
    ) -> Session:
        import onnxruntime

        settings = _session_options(options, placement)
        chosen = _providers(options, placement)
        try:
            # A run that fails on a device must fail, and not be run again on the CPU.
            session = onnxruntime.InferenceSession(
                artifact, settings, providers=chosen, enable_fallback=0
            )
        except Exception as error:
            raise NotApplicable(f"ONNX Runtime cannot load the model: {_gist(error)}") from error
        if placement.device != "cpu":
            assert_used(session, chosen[0][0])
        return _OrtSession(session, signature, placement)

    def profile(
        self,
        artifact: Path,
        signature: Signature,
        options: Mapping[str, Any],
        placement: Placement,
        arrays: Arrays,
        runs: int,
    ) -> OperatorTimes:
        from strop.engines.onnxruntime_profile import profile

        validate(arrays, signature)
        settings = _session_options(options, placement)
        try:
            return profile(artifact, settings, _providers(options, placement), arrays, runs)
        except RuntimeError as error:
            raise NotApplicable(f"ONNX Runtime cannot profile the model: {_gist(error)}") from error


class _OrtSession(Session):
    thread_safe = True

    def __init__(self, session: Any, signature: Signature, placement: Placement) -> None:
        self.signature = signature
        self.concurrency = placement.streams
        self._session = session
        self._outputs = list(signature.output_names)

    def run(self, arrays: Arrays) -> dict[str, np.ndarray]:
        session = self._session
        if session is None:
            raise StropError("the session is closed")
        validate(arrays, self.signature)
        try:
            values = session.run(self._outputs, dict(arrays))
        except Exception as error:
            raise StropError(f"ONNX Runtime failed: {_gist(error)}") from error
        return dict(zip(self._outputs, values, strict=True))

    def close(self) -> None:
        self._session = None


def _providers(
    options: Mapping[str, Any], placement: Placement
) -> list[tuple[str, dict[str, str]]]:
    tf32 = bool(options.get("tf32", False))
    return providers(placement.device, options.get("provider"), tf32=tf32)


def _session_options(options: Mapping[str, Any], placement: Placement) -> Any:
    import onnxruntime

    known = {"graph", "spinning", "arena", "flush_denormals", "fastmath", "provider", "tf32"}
    if unknown := options.keys() - known:
        raise InputError(
            f"onnxruntime has no option {', '.join(sorted(unknown))}",
            hint=f"known: {', '.join(sorted(known))}",
        )
    level = options.get("graph", "all")
    if level not in _LEVELS:
        raise InputError(
            f"onnxruntime's option graph is '{level}'", hint=f"known: {', '.join(_LEVELS)}"
        )
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4  # what goes wrong is raised as well, with the same text
    settings.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _LEVELS[level])
    # The calling thread works too and is one of the intra-op threads; each further stream brings
    # a caller of its own and needs only the helpers.
    settings.intra_op_num_threads = 1 + (placement.threads - 1) * placement.streams
    settings.inter_op_num_threads = 1
    settings.enable_cpu_mem_arena = bool(options.get("arena", True))
    entries = {
        "session.intra_op.allow_spinning": options.get("spinning", True),
        "session.set_denormal_as_zero": options.get("flush_denormals", False),
        "mlas.enable_gemm_fastmath_arm64_bfloat16": options.get("fastmath", False),
    }
    for name, value in entries.items():
        settings.add_session_config_entry(name, "1" if value else "0")
    if placement.device != "cpu":
        settings.add_session_config_entry(RECORD, "1")
    return settings


def _gist(error: Exception) -> str:
    """The text without ``[ONNXRuntimeError] : 1 : FAIL : `` in front, nor where the file lay.

    The file is one of strop's own, in a cache: its place says nothing to users, and reasons go
    into bundles and answers that leave this machine.
    """
    text = str(error).split(" : ", 3)[-1].strip()
    return re.sub(r"^Load model from .*? failed: ?", "", text)
