"""OpenVINO, on the CPU and on the GPUs and NPUs that it sees."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from strop.engines._base import Arrays, Engine, Session
from strop.engines._onnx import NUMBERS, border_types, has_form, known_domains
from strop.engines.openvino_devices import assert_present, present, properties
from strop.engines.openvino_session import OpenVINOSession, gist
from strop.engines.operators import OperatorTimes
from strop.engines.validation import validate
from strop.errors import InputError, MissingExtra, NotApplicable
from strop.models.convert import number_nodes, read_network
from strop.models.model import Model
from strop.models.telemetry import quiet_telemetry
from strop.records import Applicability, Choice, Placement, Signature, Space, Target

_DOMAINS = {"", "com.microsoft", "org.openvinotoolkit"}
_PRECISIONS = ("f32", "bf16", "f16")
_SHAPES = ("dynamic", "static")
_HINTS = ("latency", "throughput")
_BF16 = {"avx512_bf16", "amx_bf16"}
_F16 = {"avx512_fp16", "amx_fp16", "fp16"}


class OpenVINO(Engine):
    """Compiles the model for this machine when it is loaded; the artefact is portable IR.

    Options
    -------
    precision
        What floating-point operators compute in: ``f32`` (the default), ``bf16``, ``f16``. It is
        always passed on, because OpenVINO left to itself takes BF16 wherever the CPU has it.
    dynamic_quantization
        Whether activations are quantised on the fly in front of INT8 weights; changes the numbers,
        False by default (OpenVINO's own default is True).
    flush_denormals
        Whether numbers below 1e-38 count as zero; False by default.
    shapes
        ``static`` compiles again for the first two shapes that come often, which takes the work
        of shapes out of each call; ``dynamic`` (the default) compiles once for all of them.
    performance_hint
        On a GPU or an NPU, whether ``latency`` or ``throughput`` decides what is left open; the
        placement's streams say which by default. On the CPU streams and threads are named, and
        nothing is left open.
    """

    name = "openvino"
    version = 2
    consumes = ("openvino", "onnx")
    packages = ("openvino",)
    extra = "openvino"
    streams = True
    exact_options = (
        "precision",
        "dynamic_quantization",
        "flush_denormals",
        "shapes",
        "performance_hint",
    )

    def available(self) -> Applicability:
        if importlib.util.find_spec("openvino") is None:
            return Applicability.no(str(MissingExtra("openvino", extra="openvino")))
        return Applicability.yes()

    def applies(self, model: Model, target: Target) -> Applicability:
        if target.device != "cpu":
            if importlib.util.find_spec("openvino") is None:
                return self.available()
            if not (here := present(target.device)):
                return here
        for answer in (
            has_form(model, self.consumes),
            border_types(model.signature, NUMBERS),
        ):
            if not answer:
                return answer
        if "openvino" in model.forms:
            return Applicability.yes()
        return known_domains(model.forms["onnx"], _DOMAINS)

    def space(self, model: Model, target: Target) -> Space:
        choices = [Choice(name="precision", values=_precisions(target))]
        if target.device != "cpu" and target.goal in ("throughput", "cost"):
            choices.append(Choice(name="performance_hint", values=("throughput", "latency")))
        dims = [dim for spec in model.signature.inputs for dim in spec.shape or (None,)]
        free = not all(isinstance(dim, int) for dim in dims)
        # Where memory is what counts, two compilations are not offered.
        if free and target.goal not in ("memory", "size"):
            choices.append(Choice(name="shapes", values=("static",)))
        return Space(choices=tuple(choices))

    def is_exact(self, options: Mapping[str, Any]) -> bool:
        return (
            super().is_exact(options)
            and options.get("precision", "f32") == "f32"
            and not options.get("dynamic_quantization", False)
        )

    def build(self, model: Model, options: Mapping[str, Any], workdir: Path) -> Path:
        _check(options)
        if "openvino" in model.forms:
            shutil.copytree(model.forms["openvino"].parent, workdir, dirs_exist_ok=True)
            return workdir / model.forms["openvino"].name
        if "onnx" not in model.forms:
            raise NotApplicable(has_form(model, self.consumes).reason)
        openvino = _openvino()
        artifact = workdir / "model.xml"
        try:
            # Not Core.read_model: with an integer Range in the graph it drops the biases of
            # quantised convolutions without a word (seen with OpenVINO 2026.4).
            network = read_network(model.forms["onnx"])
            number_nodes(network)
            _ports(network, model.signature)
            openvino.save_model(network, artifact, compress_to_fp16=False)
        except Exception as error:  # RuntimeError, and kinds of its frontends' own
            raise NotApplicable(f"OpenVINO cannot read the model: {gist(error)}") from error
        return artifact

    def load(
        self,
        artifact: Path,
        signature: Signature,
        options: Mapping[str, Any],
        placement: Placement,
    ) -> Session:
        _check(options)
        openvino = _openvino()
        device = assert_present(placement.device)
        try:
            network = openvino.Core().read_model(artifact)
            ports = _ports(network, signature)
            return OpenVINOSession(
                network,
                properties(options, placement),
                ports,
                signature,
                placement,
                device=device,
                specialise=options.get("shapes") == "static",
            )
        except RuntimeError as error:
            raise NotApplicable(f"OpenVINO cannot compile the model: {gist(error)}") from error

    def profile(
        self,
        artifact: Path,
        signature: Signature,
        options: Mapping[str, Any],
        placement: Placement,
        arrays: Arrays,
        runs: int,
    ) -> OperatorTimes:
        from strop.engines.openvino_profile import profile

        _check(options)
        validate(arrays, signature)
        openvino = _openvino()
        device = assert_present(placement.device)
        try:
            network = openvino.Core().read_model(artifact)
            inputs, _ = _ports(network, signature)
            if options.get("shapes") == "static":  # what a session does once a shape came often
                network.reshape(
                    {
                        port: list(arrays[name].shape)
                        for port, name in zip(inputs, signature.input_names, strict=True)
                    }
                )
            chosen = {**properties(options, placement), "PERF_COUNT": True}
            compiled = openvino.compile_model(network, device, chosen)
            return profile(compiled, network, inputs, signature, arrays, runs)
        except RuntimeError as error:
            raise NotApplicable(f"OpenVINO cannot profile the model: {gist(error)}") from error


def _openvino() -> Any:
    quiet_telemetry()
    import openvino

    return openvino


def _precisions(target: Target) -> tuple[str, ...]:
    """What may be computed in, FP32 first; an NPU has nothing else than FP16."""
    kind = target.device.partition(":")[0]
    if kind == "npu":
        return ("f16",)
    if kind == "gpu":
        return ("f32", "f16")
    isa = set(target.machine.isa)
    found = {"bf16": isa & _BF16, "f16": isa & _F16}
    return ("f32", *(name for name, has in found.items() if has))


def _check(options: Mapping[str, Any]) -> None:
    known = set(OpenVINO.exact_options)
    if unknown := options.keys() - known:
        raise InputError(
            f"openvino has no option {', '.join(sorted(unknown))}",
            hint=f"known: {', '.join(sorted(known))}",
        )
    precision = options.get("precision", "f32")
    if precision not in _PRECISIONS:
        raise InputError(
            f"openvino's option precision is '{precision}'",
            hint=f"known: {', '.join(_PRECISIONS)}",
        )
    shapes = options.get("shapes", "dynamic")
    if shapes not in _SHAPES:
        raise InputError(
            f"openvino's option shapes is '{shapes}'", hint=f"known: {', '.join(_SHAPES)}"
        )
    hint = options.get("performance_hint", "latency")
    if hint not in _HINTS:
        raise InputError(
            f"openvino's option performance_hint is '{hint}'", hint=f"known: {', '.join(_HINTS)}"
        )


def _ports(network: Any, signature: Signature) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where each input and output of the signature stands in the network."""
    return (
        _positions("input", network.inputs, signature.input_names),
        _positions("output", network.outputs, signature.output_names),
    )


def _positions(kind: str, ports: Any, names: tuple[str, ...]) -> tuple[int, ...]:
    known = [port.get_names() for port in ports]
    # One tensor may leave under several names; then only the order tells the outputs apart.
    if len(known) == len(names) and all(
        name in port for name, port in zip(names, known, strict=True)
    ):
        return tuple(range(len(names)))
    positions = []
    for name in names:
        found = [number for number, port in enumerate(known) if name in port]
        if not found:
            raise NotApplicable(f"OpenVINO drops the {kind} '{name}'")
        positions.append(found[0])
    return tuple(positions)
