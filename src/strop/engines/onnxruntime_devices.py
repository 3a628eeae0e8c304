"""The execution providers of ONNX Runtime that serve a device, and whether one really does."""

from __future__ import annotations

import importlib.util
from typing import Any

from strop.errors import NotApplicable
from strop.records import Applicability

_SUFFIX = "ExecutionProvider"
_FAMILIES = {
    "cuda": ("CUDA", "Tensorrt", "NvTensorRTRTX"),
    "tensorrt": ("Tensorrt", "NvTensorRTRTX"),
    "rocm": ("ROCM", "MIGraphX"),
    "directml": ("Dml",),
}
"""Devices whose name is not their provider's; the provider to try first stands first."""
_NO_DEVICE = {"CPU", "Azure"}
"""Azure's sends the inputs to a server."""
_NUMBERED = {"CUDA", "Tensorrt", "NvTensorRTRTX", "ROCM", "MIGraphX", "Dml"}
RECORD = "session.record_ep_graph_assignment_info"
"""The session's entry that :func:`assert_used` needs."""


def reported() -> tuple[str, ...]:
    """The providers of this installation that are devices, as ``CUDA``, ``QNN`` …"""
    if importlib.util.find_spec("onnxruntime") is None:
        return ()
    import onnxruntime

    names = (name.removesuffix(_SUFFIX) for name in onnxruntime.get_available_providers())
    return tuple(name for name in names if name not in _NO_DEVICE)


def serving(device: str) -> tuple[str, ...]:
    """The reported providers that serve a device (``cuda``, ``cuda:1``, ``qnn``), best first.

    A device that is in no family is its provider's name in lower case.
    """
    family = device.lower().partition(":")[0]
    here = reported()
    wanted = _FAMILIES.get(family)
    if wanted is not None:
        return tuple(name for name in wanted if name in here)
    return tuple(name for name in here if name.lower() == family)


def serves(device: str) -> Applicability:
    """Whether some provider of this installation serves `device`; it has not run anything yet."""
    if serving(device):
        return Applicability.yes()
    here = ", ".join(name.lower() for name in reported())
    return Applicability.no(
        f"this ONNX Runtime has no provider for '{device}' "
        f"({f'it has {here}' if here else 'it runs on the CPU only'}); a build of it for that "
        "device, such as onnxruntime-gpu, onnxruntime-directml or onnxruntime-qnn, brings one"
    )


def providers(device: str, wanted: str | None, *, tf32: bool) -> list[tuple[str, dict[str, str]]]:
    """What a session on `device` is made with: its provider, then the CPU for what that refuses.

    Raises
    ------
    NotApplicable
        When this installation reports no such provider, or what is asked for is not this device's.
    """
    if device == "cpu":
        if wanted is not None or tf32:
            asked = f"the provider {wanted}" if wanted else "tf32"
            raise NotApplicable(f"{asked} is for another device, and this one is the CPU")
        return [(f"CPU{_SUFFIX}", {})]
    here = serving(device)
    name = wanted or (here[0] if here else None)
    if name is None or name not in here:
        missing = f"no provider {wanted} for '{device}'" if here else serves(device).reason
        raise NotApplicable(missing)
    if tf32 and name != "CUDA":
        raise NotApplicable(f"tf32 is an option of CUDA's provider, not of {name}")
    options = {}
    index = device.partition(":")[2]
    if index and name in _NUMBERED:
        options["device_id"] = index
    if name == "CUDA":
        # Otherwise products and convolutions lose thirteen bits of their mantissa.
        options["use_tf32"] = "1" if tf32 else "0"
    return [(f"{name}{_SUFFIX}", options), (f"CPU{_SUFFIX}", {})]


def assert_used(session: Any, provider: str) -> None:
    """Refuse a session that was asked for `provider` and runs on the CPU alone.

    ONNX Runtime leaves a provider that will not start out without an error, and gives the CPU
    whatever a provider does not take, up to the whole graph.

    Raises
    ------
    NotApplicable
        When the provider is not in the session, or no operator runs on it, or this ONNX Runtime
        is too old to tell.
    """
    name = provider.removesuffix(_SUFFIX)
    running = list(session.get_providers())
    if provider not in running:
        raise NotApplicable(
            f"ONNX Runtime's provider {name} does not start here: the session would run on "
            f"{', '.join(it.removesuffix(_SUFFIX) for it in running)}"
        )
    assigned = getattr(session, "get_provider_graph_assignment_info", None)
    if assigned is None:
        raise NotApplicable(
            f"this ONNX Runtime does not tell what runs on its provider {name}: install a later one"
        )
    if not any(part.ep_name == provider for part in assigned()):
        raise NotApplicable(
            f"ONNX Runtime's provider {name} takes none of the graph: all of it would run on the "
            "CPU"
        )
