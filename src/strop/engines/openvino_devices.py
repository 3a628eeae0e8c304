"""OpenVINO's names of devices, which of them are here, and what each is compiled with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from strop.errors import NotApplicable
from strop.models.telemetry import quiet_telemetry
from strop.records import Applicability, Placement

_KINDS = ("CPU", "GPU", "NPU")


def openvino_name(device: str) -> str:
    """The device as OpenVINO spells it.

    Examples
    --------
    >>> openvino_name("gpu:1"), openvino_name("npu")
    ('GPU.1', 'NPU')
    """
    return device.upper().replace(":", ".")


def present(device: str) -> Applicability:
    """Whether OpenVINO sees `device` here; it imports the runtime for anything but the CPU."""
    if device == "cpu":
        return Applicability.yes()
    name = openvino_name(device)
    kind, _, number = name.partition(".")
    if kind not in _KINDS:
        return Applicability.no(f"runs on cpu, gpu and npu, not on '{device}'")
    quiet_telemetry()
    import openvino

    here = openvino.Core().available_devices
    # A single one is listed without its number, several each with one.
    if name in here or (not number and any(it.partition(".")[0] == kind for it in here)):
        return Applicability.yes()
    if number == "0" and kind in here:
        return Applicability.yes()
    return Applicability.no(
        f"OpenVINO sees no '{device}' here, only {', '.join(it.lower() for it in here)}: the "
        "device or its driver is missing"
    )


def assert_present(device: str) -> str:
    """OpenVINO's name of `device`.

    Raises
    ------
    NotApplicable
        When it is not here.
    """
    answer = present(device)
    if not answer:
        raise NotApplicable(answer.reason)
    return openvino_name(device)


def properties(options: Mapping[str, Any], placement: Placement) -> dict[str, Any]:
    """What a network is compiled with for the placement's device.

    On the CPU streams and threads are named, and OpenVINO's performance hint would only choose
    them (checked with 2026.4: with both named, no other property depends on it). A GPU takes
    streams and the hint, an NPU the hint and the number of requests; neither has threads of ours.

    Raises
    ------
    NotApplicable
        When an NPU is asked for another precision than its own.
    """
    precision = options.get("precision", "f32")
    quantize = bool(options.get("dynamic_quantization", False))
    kind = openvino_name(placement.device).partition(".")[0]
    hint = str(
        options.get("performance_hint") or ("throughput" if placement.streams > 1 else "latency")
    )
    if kind == "NPU":
        if options.get("precision", "f16") != "f16":
            raise NotApplicable(f"an NPU computes in f16, and {precision} was asked for")
        return {
            "PERFORMANCE_HINT": hint.upper(),
            "PERFORMANCE_HINT_NUM_REQUESTS": placement.streams,
        }
    chosen: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision,
        "NUM_STREAMS": placement.streams,
        "EXECUTION_MODE_HINT": "ACCURACY" if precision == "f32" and not quantize else "PERFORMANCE",
    }
    if not quantize:
        chosen["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
    if kind == "GPU":
        return {**chosen, "PERFORMANCE_HINT": hint.upper()}
    return {
        **chosen,
        "INFERENCE_NUM_THREADS": placement.threads * placement.streams,
        # Whoever starts us chooses the CPUs by affinity; threads that OpenVINO pins would fight
        # with those of a neighbour process over the first cores.
        "ENABLE_CPU_PINNING": False,
        # Otherwise fewer threads than asked for run where two CPUs share a core.
        "ENABLE_HYPER_THREADING": True,
        "CPU_DENORMALS_OPTIMIZATION": bool(options.get("flush_denormals", False)),
    }
