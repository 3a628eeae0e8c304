"""OpenVINO's performance counters, and the layers of the file that each primitive executes."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from strop.engines._base import Arrays
from strop.engines.operators import WARM, OperatorTime, OperatorTimes, between
from strop.records import Signature

_PRECISIONS = {
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "i8": "int8",
    "u8": "int8",
}


def profile(
    compiled: Any,
    network: Any,
    inputs: tuple[int, ...],
    signature: Signature,
    arrays: Arrays,
    runs: int,
) -> OperatorTimes:
    """Profile `runs` calls of `network`, compiled with ``PERF_COUNT``.

    Parameters
    ----------
    inputs
        Where each input of `signature` stands in the network.
    """
    request = compiled.create_infer_request()
    given = {port: arrays[name] for port, name in zip(inputs, signature.input_names, strict=True)}
    seconds: dict[str, list[float]] = {}
    counters: dict[str, Any] = {}
    calls = []
    for call in range(WARM + runs):
        start = perf_counter()
        request.infer(given, share_inputs=True, share_outputs=True)
        calls.append(perf_counter() - start)
        for counter in request.get_profiling_info():
            if str(counter.status).endswith("EXECUTED"):
                counters.setdefault(counter.node_name, counter)
                times = seconds.setdefault(counter.node_name, [0.0] * (WARM + runs))
                times[call] += counter.real_time.total_seconds()
    originals = {
        op.friendly_name: _names(op.rt_info["originalLayersNames"])
        for op in compiled.get_runtime_model().get_ordered_ops()
        if "originalLayersNames" in op.rt_info
    }
    made = {
        op.get_friendly_name(): [name for port in op.outputs() for name in sorted(port.get_names())]
        for op in network.get_ordered_ops()
        if op.get_type_name() != "Constant"
    }
    operators = []
    for name, counter in counters.items():
        nodes = originals.get(name, ())
        operators.append(
            OperatorTime.over(
                seconds[name][WARM:],
                name=name,
                operator=counter.node_type,
                kernel=counter.exec_type,
                precision=_PRECISIONS.get(counter.exec_type.rpartition("_")[2].lower(), ""),
                nodes=tuple(node for node in nodes if node in made),
                tensors=tuple(tensor for node in nodes for tensor in made.get(node, ())),
            )
        )
    outside = between(calls[WARM:], [times[WARM:] for times in seconds.values()])
    return OperatorTimes(tuple(operators), outside)


def _names(value: Any) -> tuple[str, ...]:
    return tuple(name for name in str(value.value).split(",") if name)
