"""LiteRT, formerly TensorFlow Lite, on the CPU: the native runtime of `.tflite` files."""

from __future__ import annotations

import importlib.util
import queue
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from strop.engines._base import Arrays, Engine, Session
from strop.engines._onnx import NUMBERS, border_types
from strop.engines.operators import OperatorTimes
from strop.engines.validation import validate
from strop.errors import InputError, MissingExtra, NotApplicable, StropError
from strop.models.model import Model
from strop.models.tflite_runner import TFLiteRunner
from strop.records import Applicability, Choice, Placement, Signature, Space, Target

_CONVERTER = "litert_torch"


class LiteRT(Engine):
    """Runs a `.tflite` file as it is; other batches than the file's own by resizing its inputs.

    A model that came as ONNX or as a module is converted where Google's converter, litert-torch,
    is installed beside strop (it is no extra: see docs/engines-edge.md).

    Options
    -------
    xnnpack
        Whether XNNPACK computes what it can: True (the default) is LiteRT's own default; False
        leaves every operator to LiteRT's kernels, which is sometimes faster for integers.
    """

    name = "litert"
    consumes = ("tflite", "onnx")
    packages = ("ai-edge-litert", "litert-torch")
    extra = "litert"
    streams = True
    exact_options = ("xnnpack",)

    def available(self) -> Applicability:
        if importlib.util.find_spec("ai_edge_litert") is None:
            return Applicability.no(str(MissingExtra("ai-edge-litert", extra="litert")))
        return Applicability.yes()

    def applies(self, model: Model, target: Target) -> Applicability:
        if target.device != "cpu":
            return Applicability.no(f"runs on the CPU only, not on '{target.device}'")
        if "tflite" in model.forms:
            if reason := model.meta.get("litert_error"):
                return Applicability.no(str(reason))
            return border_types(model.signature, NUMBERS)
        if importlib.util.find_spec(_CONVERTER) is None:
            return Applicability.no(_NO_FORM)
        from strop.models.onnx_converter import convertible

        return border_types(model.signature, NUMBERS) and convertible(model)

    def space(self, model: Model, target: Target) -> Space:
        return Space(choices=(Choice(name="xnnpack", values=(True, False)),))

    def build(self, model: Model, options: Mapping[str, Any], workdir: Path) -> Path:
        _check(options)
        artifact = workdir / "model.tflite"
        if "tflite" in model.forms:
            shutil.copyfile(model.forms["tflite"], artifact)
            return artifact
        if "onnx" not in model.forms or importlib.util.find_spec(_CONVERTER) is None:
            raise NotApplicable(_NO_FORM)
        from strop.engines.litert_convert import convert

        convert(model, artifact)
        return artifact

    def load(
        self,
        artifact: Path,
        signature: Signature,
        options: Mapping[str, Any],
        placement: Placement,
    ) -> Session:
        _check(options)
        xnnpack = bool(options.get("xnnpack", True))
        runners = [
            TFLiteRunner(artifact, signature, threads=placement.threads, xnnpack=xnnpack)
            for _ in range(placement.streams)
        ]
        return _LiteRTSession(runners, signature)

    def profile(
        self,
        artifact: Path,
        signature: Signature,
        options: Mapping[str, Any],
        placement: Placement,
        arrays: Arrays,
        runs: int,
    ) -> OperatorTimes:
        raise NotApplicable(_NO_PROFILER)


class _LiteRTSession(Session):
    """As many interpreters as streams: one runs a single call at a time, without Python's lock."""

    thread_safe = True

    def __init__(self, runners: list[TFLiteRunner], signature: Signature) -> None:
        self.signature = signature
        self.concurrency = len(runners)
        self._free: queue.LifoQueue[TFLiteRunner] | None = queue.LifoQueue()
        for runner in runners:
            self._free.put(runner)

    def run(self, arrays: Arrays) -> dict[str, np.ndarray]:
        free = self._free
        if free is None:
            raise StropError("the session is closed")
        validate(arrays, self.signature)
        runner = free.get()
        try:
            return runner.run(arrays)
        except NotApplicable as error:
            raise StropError(error.message) from error
        finally:
            free.put(runner)

    def close(self) -> None:
        # The last call that is still running frees them.
        self._free = None


_NO_PROFILER = "LiteRT's Python package has no profiler of operators"
_NO_FORM = (
    "needs a .tflite file: give that as the model, or install litert-torch beside strop, which "
    "converts from PyTorch (docs/engines-edge.md)"
)


def _check(options: Mapping[str, Any]) -> None:
    if unknown := options.keys() - set(LiteRT.exact_options):
        raise InputError(
            f"litert has no option {', '.join(sorted(unknown))}",
            hint=f"known: {', '.join(LiteRT.exact_options)}",
        )
