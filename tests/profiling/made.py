"""Profiles made by hand."""

from __future__ import annotations

from typing import Any

from strop.profiling import EngineProfile, MemorySample, Operator


def operator(name: str, seconds: float, kind: str = "Conv", **more: Any) -> Operator:
    """Shares are of a call of one millisecond."""
    values: dict[str, Any] = {
        "name": name,
        "operator": kind,
        "kernel": "",
        "precision": "float32",
        "nodes": (name,),
        "seconds": seconds,
        "low": 0.99 * seconds,
        "high": 1.01 * seconds,
        "share": seconds / 1e-3,
        "flops": None,
        "bytes_moved": None,
        "roofline": None,
        "side": None,
    }
    return Operator(**(values | more))


def profile(*operators: Operator, **more: Any) -> EngineProfile:
    """A call of one millisecond; what its operators leave is outside of them."""
    inside = sum(one.seconds for one in operators)
    values: dict[str, Any] = {
        "engine": "onnxruntime",
        "recipe": "onnxruntime(all)",
        "calls": 100,
        "call_seconds": 1e-3,
        "profiled_seconds": 1e-3,
        "operators": operators,
        "outside_seconds": max(1e-3 - inside, 0.0),
        "unmatched": sum(not one.nodes for one in operators),
        "quantised": any(one.precision == "int8" for one in operators),
        "memory": tuple(
            MemorySample(seconds=i / 10, bytes=i * 1_000_000, phase=phase)
            for i, phase in enumerate(("import", "import", "load", "run", "run"))
        ),
        "peak_memory": 4_000_000,
    }
    return EngineProfile(**(values | more))
