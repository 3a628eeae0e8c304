"""PyTorch's AOTInductor: the module as a shared library compiled for this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
import threading
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from strop.engines import _cuda
from strop.engines._base import Arrays, Engine, Session
from strop.engines._tensors import as_array, as_tensor
from strop.engines.inductor_library import Library
from strop.engines.inductor_runner import Runner
from strop.engines.operators import OperatorTimes
from strop.engines.validation import validate
from strop.errors import InputError, MissingExtra, NotApplicable, StropError
from strop.models.model import Model
from strop.records import Applicability, Choice, Placement, Signature, Space, Target


class Inductor(Engine):
    """Exports the module, compiles it to ``model.so`` with a C++ compiler, and loads that.

    A model that came as ONNX is converted to a module first. The library calls PyTorch's own and
    is machine code for the CPU that it was built on: both are checked when it is loaded.

    Options
    -------
    freezing
        Whether weights are folded into the code and packed for the CPU's matrix products: True
        (the default) runs faster, False keeps the graph closer to the module.
    rows
        How many rows its loops are laid out for, 2 by default; it takes any number.
    device
        What it is compiled for: ``cpu`` (the default), ``cuda`` …
    kernels
        Whether kernels tell a profiler their names, which costs each a little in every call:
        False by default; `strop profile` builds so.
    trust
        Set where a bundle's library is loaded, which is code: what loads bundles asks for it
        (`strop.bundle.load`). It changes nothing here.

    Notes
    -----
    Of Inductor's other options, ``max_autotune`` is left out: on a CPU its templates fix the
    number of threads when they are compiled, and a session's placement could not be kept. A C++
    wrapper is what every library has.
    """

    name = "inductor"
    version = 3
    consumes = ("module", "onnx")
    ships = ("inductor",)
    packages = ("torch",)
    extra = "torch"
    native_artifact = True
    takes_quantised = False
    build_seconds = 15.0
    streams = True
    exact_options = ("freezing", "rows", "device", "kernels", "trust")
    profile_options = types.MappingProxyType({"kernels": True})

    def available(self) -> Applicability:
        if importlib.util.find_spec("torch") is None:
            return Applicability.no(str(MissingExtra("torch", extra="torch")))
        return Applicability.yes()

    def applies(self, model: Model, target: Target) -> Applicability:
        if not (answer := _cuda.usable(target.device)):
            return answer
        if sys.platform == "win32":
            return Applicability.no("libraries are built on Linux and macOS only")
        if _compiler() is None:
            return Applicability.no(_NO_COMPILER)
        for spec in (*model.signature.inputs, *model.signature.outputs):
            if spec.dtype == "str":
                return Applicability.no(f"PyTorch has no strings ('{spec.name}')")
        if "module" in model.forms or "onnx" not in model.forms:
            known = "module" in model.forms
            return Applicability.yes() if known else Applicability.no(_NO_FORM)
        from strop.models.onnx_converter import convertible

        return convertible(model)

    def space(self, model: Model, target: Target) -> Space:
        choices = [Choice(name="freezing", values=(True, False))]
        if target.batch > 2:
            choices.append(Choice(name="rows", values=(target.batch,)))
        if target.device != "cpu":
            choices.append(Choice(name="device", values=(target.device,)))
        return Space(choices=tuple(choices))

    def build(self, model: Model, options: Mapping[str, Any], workdir: Path) -> Path:
        _check(options)
        compiler = _compiler()
        if compiler is None:
            raise NotApplicable(_NO_COMPILER)
        device = str(options.get("device", "cpu"))
        _cuda.prepare(device)
        form, module = _module(model)
        from strop.engines.inductor_compile import ROWS, compile_module

        return compile_module(
            module,
            form,
            model.signature,
            workdir,
            compiler=compiler,
            device=device,
            freezing=bool(options.get("freezing", True)),
            rows=max(options.get("rows", ROWS), ROWS),
            kernels=bool(options.get("kernels", False)),
        )

    def load(
        self,
        artifact: Path,
        signature: Signature,
        options: Mapping[str, Any],
        placement: Placement,
    ) -> Session:
        _check(options)
        import torch

        _cuda.prepare(placement.device)
        library = Library.read(artifact)
        library.check(placement.device)
        _use_threads(placement.threads)
        with contextlib.suppress(RuntimeError):  # it can be set once a process, before any use
            torch.set_num_interop_threads(1)
        # Not aoti_load_package: it takes an archive, and unpickles weights that lie in one.
        runner = Runner(artifact, placement.device, placement.streams)
        return _InductorSession(runner, library, signature, placement)

    def profile(
        self,
        artifact: Path,
        signature: Signature,
        options: Mapping[str, Any],
        placement: Placement,
        arrays: Arrays,
        runs: int,
    ) -> OperatorTimes:
        if placement.device != "cpu":
            raise NotApplicable("kernels of compiled libraries are timed on the CPU only")
        from strop.engines.inductor_profile import profile

        session = self.load(artifact, signature, options, placement)
        return profile(lambda: session.run(arrays), runs)


class _InductorSession(Session):
    thread_safe = True

    def __init__(
        self, runner: Runner, library: Library, signature: Signature, placement: Placement
    ) -> None:
        self.signature = signature
        self.concurrency = placement.streams
        self._runner: Runner | None = runner
        self._library = library
        self._threads = placement.threads
        self._device = placement.device

    def run(self, arrays: Arrays) -> dict[str, np.ndarray]:
        import torch

        runner = self._runner
        if runner is None:
            raise StropError("the session is closed")
        validate(arrays, self.signature)
        self._library.check_shapes(arrays)
        if getattr(_calling, "threads", None) != self._threads:
            _use_threads(self._threads)
        tensors = [as_tensor(arrays[name]) for name in self.signature.input_names]
        if self._device != "cpu":
            tensors = [tensor.to(self._device) for tensor in tensors]
        with torch.inference_mode():
            outputs = runner.run(tensors)
        named = zip(self.signature.output_names, outputs, strict=True)
        return {name: as_array(tensor) for name, tensor in named}

    def close(self) -> None:
        # The last call that is still running frees it.
        self._runner = None


_calling = threading.local()
"""How many threads a library has that is called from this one: sessions share the count."""


def _use_threads(count: int) -> None:
    """Set it: OpenMP counts the threads of each calling thread apart, and starts with all cores."""
    import torch

    torch.set_num_threads(count)
    _calling.threads = count


_NO_FORM = "needs a PyTorch module or an ONNX form"
_NO_COMPILER = (
    "AOTInductor needs a C++ compiler, and there is none on the path; install g++ or clang++ "
    "(apt install g++), or name one in CXX, a program without arguments"
)


def _compiler() -> str | None:
    """The C++ compiler that Inductor would take, by its path."""
    return shutil.which(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++"))


def _module(model: Model) -> tuple[Any, Any]:
    """The module form and the module: the user's own, or the ONNX graph's.

    A module that techniques have changed is for further training; what they deliver is the graph
    that it was exported to. One made in Python is not at hand where engines build.
    """
    from strop.models import module_form
    from strop.models.onnx_converter import convertible, form_of, to_module

    if "module" in model.forms:
        form = module_form.ModuleForm.read(model.forms["module"])
        if "onnx" not in model.forms or not (form.live or form.plan):
            return module_form.open_module(model)
    if "onnx" not in model.forms:
        raise NotApplicable(_NO_FORM)
    verdict = convertible(model)
    if not verdict:
        raise NotApplicable(verdict.reason)
    return form_of(model.signature), to_module(model.forms["onnx"])


def _check(options: Mapping[str, Any]) -> None:
    known = Inductor.exact_options
    if unknown := options.keys() - set(known):
        raise InputError(
            f"inductor has no option {', '.join(sorted(unknown))}",
            hint=f"known: {', '.join(known)}",
        )
    rows = options.get("rows", 1)
    if not isinstance(rows, int) or rows < 1:
        raise InputError(f"inductor's option rows is {rows!r}: it must be at least 1")
