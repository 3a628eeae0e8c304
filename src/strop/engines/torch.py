"""PyTorch, eager: the native runtime of modules and the baseline of their claims."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from strop.engines import _cuda
from strop.engines._base import Arrays, Engine, Session
from strop.engines._tensors import as_array, as_tensor
from strop.engines.operators import OperatorTimes
from strop.engines.validation import validate
from strop.errors import InputError, MissingExtra, NotApplicable, StropError, TrustError
from strop.models.model import Model, ModuleSource
from strop.models.module_form import ModuleForm, describe_error, flatten, instantiate
from strop.records import Applicability, Placement, Signature, Space, Target

Tensors = dict[str, Any]


class TorchEager(Engine):
    """Calls the `nn.Module` itself, or an exported program (``.pt2``), operator by operator.

    The artefact of a module is ``module.json``: which ``file.py:callable`` makes it, or that it
    is live and arrives as a pickle over a pipe, and how its inputs and outputs are called.

    Options
    -------
    trust
        Whether a ``.pt2`` may be loaded: `torch.export.load` may run code that it holds. False by
        default. Module files have been trusted when they were imported.
    """

    name = "torch"
    consumes = ("module", "exported")
    packages = ("torch",)
    extra = "torch"
    exact_options = ("trust",)

    def __init__(self, payload: bytes | None = None) -> None:
        self._payload = payload

    def with_payload(self, payload: bytes) -> TorchEager:
        return TorchEager(payload)

    def available(self) -> Applicability:
        if importlib.util.find_spec("torch") is None:
            return Applicability.no(str(MissingExtra("torch", extra="torch")))
        return Applicability.yes()

    def applies(self, model: Model, target: Target) -> Applicability:
        if not (answer := _cuda.usable(target.device)):
            return answer
        if "module" not in model.forms and "exported" not in model.forms:
            return Applicability.no("needs a PyTorch module or an exported program")
        for spec in (*model.signature.inputs, *model.signature.outputs):
            if spec.dtype == "str":
                return Applicability.no(f"PyTorch has no strings ('{spec.name}')")
        return Applicability.yes()

    def space(self, model: Model, target: Target) -> Space:
        return Space()

    def build(self, model: Model, options: Mapping[str, Any], workdir: Path) -> Path:
        _check(options)
        for form in self.consumes:
            if form in model.forms:
                main = model.forms[form]
                # All of the folder: a changed module has its weights beside it.
                shutil.copytree(main.parent, workdir, dirs_exist_ok=True)
                return workdir / main.name
        raise NotApplicable("needs a PyTorch module or an exported program")

    def load(
        self,
        artifact: Path,
        signature: Signature,
        options: Mapping[str, Any],
        placement: Placement,
    ) -> Session:
        import torch

        _check(options)
        _cuda.prepare(placement.device)
        torch.set_num_threads(placement.threads)
        with contextlib.suppress(RuntimeError):  # it can be set once a process, before any use
            torch.set_num_interop_threads(1)
        run = (
            _exported(artifact, signature, options, placement.device)
            if artifact.suffix == ".pt2"
            else _module(artifact, self._payload, placement.device)
        )
        return _TorchSession(run, signature, placement.device)

    def profile(
        self,
        artifact: Path,
        signature: Signature,
        options: Mapping[str, Any],
        placement: Placement,
        arrays: Arrays,
        runs: int,
    ) -> OperatorTimes:
        from strop.engines.torch_profile import profile

        session = self.load(artifact, signature, options, placement)
        return profile(lambda: session.run(arrays), runs)


class _TorchSession(Session):
    # A module may keep state between calls, and nothing tells whether this one does.
    thread_safe = False
    concurrency = 1

    def __init__(
        self, run: Callable[[Tensors], Tensors], signature: Signature, device: str
    ) -> None:
        self.signature = signature
        self._device = device
        self._run: Callable[[Tensors], Tensors] | None = run
        self._writes = True
        """Whether the module writes into its inputs; until the first call has told, it may."""

    def run(self, arrays: Arrays) -> dict[str, np.ndarray]:
        import torch

        if self._run is None:
            raise StropError("the session is closed")
        validate(arrays, self.signature)
        tensors = {name: as_tensor(arrays[name]) for name in self.signature.input_names}
        if self._writes:  # an activation in place changes the caller's arrays otherwise
            tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        given = list(tensors.values())
        if self._device != "cpu":
            tensors = {name: tensor.to(self._device) for name, tensor in tensors.items()}
        try:
            with torch.inference_mode():
                outputs = self._run(tensors)
                self._writes = any(tensor._version for tensor in given)
                return {name: as_array(outputs[name]) for name in self.signature.output_names}
        except Exception as error:  # whatever the user's forward raises
            raise StropError(f"the module fails: {describe_error(error)}") from error

    def close(self) -> None:
        self._run = None


def _module(artifact: Path, payload: bytes | None, device: str) -> Callable[[Tensors], Tensors]:
    form = ModuleForm.read(artifact)
    if form.live and payload is None:
        raise InputError(
            "the module was made in Python and is not on disk",
            hint="pass its pickle: open_session(spec, payload=model.source.payload)",
        )
    module = instantiate(ModuleSource(form.spec, payload if form.live else None), artifact.parent)
    if device != "cpu":
        module = module.to(device)
    return lambda tensors: form.run(module, tensors)


def _exported(
    artifact: Path, signature: Signature, options: Mapping[str, Any], device: str
) -> Callable[[Tensors], Tensors]:
    import torch

    if not options.get("trust", False):
        raise TrustError(
            f"'{artifact.name}' is an exported program, and loading one may run code that it holds",
            hint="pass --trust if you know where it comes from",
        )
    program = torch.export.load(artifact)
    if device != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    module = program.module()
    # A program takes by position what it was exported with by position, and by name the rest.
    places = program.call_spec.in_spec.children()[0].num_children
    inputs, outputs = signature.input_names, signature.output_names

    def run(tensors: Tensors) -> Tensors:
        by_place = [tensors[name] for name in inputs[:places]]
        by_name = {name: tensors[name] for name in inputs[places:]}
        found = flatten(module(*by_place, **by_name))
        return dict(zip(outputs, (tensor for _, tensor in found), strict=True))

    return run


def _check(options: Mapping[str, Any]) -> None:
    if unknown := options.keys() - {"trust"}:
        raise InputError(f"torch has no option {', '.join(sorted(unknown))}", hint="known: trust")
