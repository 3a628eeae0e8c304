"""ONNX Runtime's profiler, and which nodes of the file each of its fused kernels executes."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strop.engines._base import Arrays
from strop.engines.operators import WARM, OperatorTime, OperatorTimes, between

_SUFFIX = "_kernel_time"
_TYPES = {"float": "float32", "double": "float64", "bfloat16": "bfloat16"}
_INTEGERS = ("int8", "uint8")
_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear", "Cast")
_INTEGER_KERNELS = ("QLinear", "QGemm", "QAttention", "DynamicQuantize")
_SUMMAND = 3  # the place of a blocked convolution's summand among its inputs
_EXTERNAL_FROM = "1024"  # bytes; smaller tensors may hold axes and shapes


@dataclass
class _Kernel:
    """What the profiler said of one node of the optimised graph."""

    operator: str
    precision: str
    provider: str
    seconds: list[float]


@dataclass(frozen=True)
class _Node:
    name: str
    operator: str
    activation: str
    """What a fused convolution applies at its end; empty without."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def profile(
    artifact: Path, settings: Any, providers: Sequence[Any], arrays: Arrays, runs: int
) -> OperatorTimes:
    """Profile `runs` calls of the ONNX file; `settings` are changed.

    Parameters
    ----------
    settings
        `onnxruntime.SessionOptions` as the session has them that is profiled.
    """
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="strop-profile-") as scratch:
        folder = Path(scratch)
        settings.enable_profiling = True
        settings.profile_file_prefix = str(folder / "times")
        # The optimised graph says which tensors each kernel takes and makes: its names alone do
        # not tell what was fused into it.
        optimised = folder / "optimised.onnx"
        settings.optimized_model_filepath = str(optimised)
        for name, value in (("file_name", "weights.bin"), ("min_size_in_bytes", _EXTERNAL_FROM)):
            settings.add_session_config_entry(
                f"session.optimized_model_external_initializers_{name}", value
            )
        session = onnxruntime.InferenceSession(artifact, settings, providers=list(providers))
        given = dict(arrays)
        for _ in range(WARM + runs):
            session.run(None, given)
        events = json.loads(Path(session.end_profiling()).read_bytes())
        covers = _coverage(artifact, optimised)
    kernels, calls = _read(events)
    return OperatorTimes(
        tuple(
            OperatorTime.over(
                kernel.seconds[WARM:],
                name=name,
                operator=kernel.operator,
                # A kernel that some calls leave out (a branch) took no time in those.
                kernel=kernel.provider.removesuffix("ExecutionProvider"),
                precision=kernel.precision,
                nodes=covers.get(name, ()),
            )
            for name, kernel in kernels.items()
        ),
        between(calls[WARM:], [kernel.seconds[WARM:] for kernel in kernels.values()]),
    )


def _read(events: Sequence[Mapping[str, Any]]) -> tuple[dict[str, _Kernel], list[float]]:
    """Kernels by name with their seconds in each call, in order of execution; seconds of calls."""
    nodes = [event for event in events if event.get("cat") == "Node"]
    calls = [event for event in events if event.get("name") == "model_run"]
    calls.sort(key=lambda event: event["ts"])
    ends = [event["ts"] + event["dur"] for event in calls]
    kernels: dict[str, _Kernel] = {}
    for event, own in _own_time(nodes):
        name = event["name"]
        if not name.endswith(_SUFFIX):
            continue
        arguments = event["args"]
        name = name.removesuffix(_SUFFIX)
        call = next((i for i, end in enumerate(ends) if event["ts"] < end), len(ends) - 1)
        kernel = kernels.setdefault(
            name,
            _Kernel(
                arguments.get("op_name", ""),
                _precision(arguments),
                arguments.get("provider", ""),
                [0.0] * len(calls),
            ),
        )
        kernel.seconds[call] += own / 1e6
    return kernels, [event["dur"] / 1e6 for event in calls]


def _own_time(events: list[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], float]]:
    """Each event with its microseconds less those of events inside it (bodies of Loop and If)."""
    events = sorted(events, key=lambda event: (event["ts"], -event["dur"]))
    own = [float(event["dur"]) for event in events]
    open_: list[int] = []
    for index, event in enumerate(events):
        while open_ and event["ts"] >= events[open_[-1]]["ts"] + events[open_[-1]]["dur"]:
            open_.pop()
        if open_ and event["dur"] < events[open_[-1]]["dur"]:
            own[open_[-1]] -= event["dur"]
        open_.append(index)
    yield from zip(events, (max(value, 0.0) for value in own), strict=True)


def _precision(arguments: Mapping[str, Any]) -> str:
    operator = arguments.get("op_name", "")
    types = [next(iter(entry), "") for entry in arguments.get("input_type_shape", [])]
    if operator.startswith(_INTEGER_KERNELS) or operator.endswith("Integer"):
        return "int8"
    if operator not in _CONVERSIONS and types and types[0] in _INTEGERS:
        return "int8"
    return _TYPES.get(types[0], types[0]) if types else ""


def _coverage(artifact: Path, optimised: Path) -> dict[str, tuple[str, ...]]:
    """Names of the file's nodes that each node of the optimised graph executes.

    Between the tensors that a kernel takes and those that it makes lie the nodes that it stands
    for. Tensors in the blocked layout have names of their own; kernels that make one are called
    after the tensor that it stands for.
    """
    original, constant = _graph(artifact)
    kernels, _ = _graph(optimised)
    maker = {tensor: node for node in original for tensor in node.outputs}
    names = {node.name for node in original}
    ends: dict[str, list[str]] = {}
    for kernel in kernels:
        found = [tensor for tensor in kernel.outputs if tensor in maker]
        blocked = re.sub(r"_nchwc(_\d+|_token_\d+)?$", "", kernel.name)
        if not found and blocked != kernel.name and blocked in maker:
            found = [_last(kernel, blocked, original, maker)]
        ends[kernel.name] = found
    known = {tensor for found in ends.values() for tensor in found}
    # Reordering alone makes a tensor again that its kernel has made.
    made = {
        found
        for kernel in kernels
        if not kernel.name.startswith("Reorder")
        for found in ends[kernel.name]
    }
    covers: dict[str, tuple[str, ...]] = {}
    for kernel in kernels:
        if kernel.name.startswith("Reorder") and made.issuperset(ends[kernel.name]):
            covers[kernel.name] = ()
            continue
        nodes: dict[str, None] = {}
        waiting = list(ends[kernel.name])
        while waiting:
            node = maker[waiting.pop()]
            if node.name in nodes:
                continue
            nodes[node.name] = None
            waiting += [
                tensor
                for tensor in node.inputs
                if tensor in maker and tensor not in known and tensor not in constant
            ]
        if not nodes and kernel.name in names:
            nodes[kernel.name] = None
        covers[kernel.name] = tuple(nodes)
    return covers


def _last(kernel: _Node, tensor: str, nodes: Sequence[_Node], maker: Mapping[str, _Node]) -> str:
    """The tensor that a blocked convolution makes, which is called after the one it once made.

    A sum (its fourth input) and an activation may have been fused into it since.
    """
    more = ["Add", "Sum"] if len(kernel.inputs) > _SUMMAND and kernel.inputs[_SUMMAND] else []
    for wanted in (more, [kernel.activation]):
        if wanted != [maker[tensor].operator]:
            after = (node for node in nodes if tensor in node.inputs and node.operator in wanted)
            found = next(after, None)
            tensor = found.outputs[0] if found else tensor
    return tensor


def _graph(path: Path) -> tuple[list[_Node], set[str]]:
    """The main graph's nodes, and the tensors that do not depend on any input."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    constant = {tensor.name for tensor in (*graph.initializer, *graph.sparse_initializer)}
    nodes = []
    for node in graph.node:
        taken = [*node.input, *_from_outside(node)]
        ends = [a.s.decode() for a in node.attribute if a.name == "activation"]
        nodes.append(
            _Node(node.name, node.op_type, "".join(ends), tuple(taken), tuple(node.output))
        )
        if not any(taken) or all(name in constant for name in taken if name):
            constant.update(node.output)
    return nodes, constant


def _from_outside(node: Any) -> list[str]:
    """Tensors that the bodies of a node take from around it."""
    found = []
    for attribute in node.attribute:
        for body in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            for inner in body.node:
                found += [*inner.input, *_from_outside(inner)]
    return found
