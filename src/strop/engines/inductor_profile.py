"""The kernels of a library that was compiled with their names, under PyTorch's profiler."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

from strop.engines.operators import WARM, OperatorTime, OperatorTimes, between
from strop.errors import NotApplicable

_CALL = "strop:call"
_SHOWN = 4
"""How many operators the kind of fused loops names."""
_LOOPS = re.compile(r"(?:graph_\d+_)?cpp_(?:fused_)?(?P<fused>.*?)_?\d+")
_OWN = re.compile(r"aoti_torch_(?:cpu_)?_?(?P<operator>.+?)_?")
"""A call of PyTorch's kernel by way of its C interface."""


def profile(call: Callable[[], object], runs: int) -> OperatorTimes:
    """Profile `runs` calls.

    An operator is a kernel of the library's, by its place in the call: loops that Inductor wrote,
    which fuse several of PyTorch's operators and are named after them, or one of PyTorch's own
    kernels. Which nodes of the model they stand for is left open: AOTInductor's own account of it
    (its provenance tracking) names the wrong ones where residual sums are fused into convolutions.

    Raises
    ------
    NotApplicable
        When the library was compiled without its kernels' names.
    """
    from torch.profiler import ProfilerActivity, record_function
    from torch.profiler import profile as record

    for _ in range(WARM):
        call()
    with record(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        call()  # the first one under the profiler starts it
        calls = []
        for _ in range(runs):
            start = perf_counter()
            with record_function(_CALL):
                call()
            calls.append(perf_counter() - start)
    seconds: dict[tuple[int, str], list[float]] = {}
    roots = [event for event in profiler.events() if event.name == _CALL]
    for number, root in enumerate(roots):
        for place, event in enumerate(_kernels(root)):
            times = seconds.setdefault((place, event.name), [0.0] * len(roots))
            times[number] = event.cpu_time_total / 1e6
    if not seconds:
        raise NotApplicable(_NAMELESS)
    operators = tuple(
        OperatorTime.over(
            times,
            name=f"{place}/{_short(event)}",
            operator=kind(event),
            kernel=event,
        )
        for (place, event), times in seconds.items()
    )
    return OperatorTimes(operators, between(calls, list(seconds.values())))


def kind(event: str) -> str:
    """What a kernel does, from the name that it has in a profile; empty where it is no kernel.

    Examples
    --------
    >>> kind("aoti_torch_cpu_mkldnn__convolution_pointwise_")
    'mkldnn__convolution_pointwise'
    >>> kind("aten::to")
    ''
    """
    if match := _OWN.fullmatch(event):
        return match["operator"]
    if match := _LOOPS.fullmatch(event):
        names = list(_operators(match["fused"]))
        more = [f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
        return f"fused: {', '.join(names[:_SHOWN] + more)}"
    return ""


def _short(event: str) -> str:
    match = _OWN.fullmatch(event)
    return match["operator"] if match else re.sub(r"^graph_\d+_", "", event)


def _kernels(event: Any) -> Iterator[Any]:
    """The outermost events below `event` that are kernels of the library's."""
    for child in event.cpu_children:
        if kind(child.name):
            yield child
        else:
            yield from _kernels(child)


def _operators(fused: str) -> Iterator[str]:
    """The operators in ``_softmax_add_max_pool2d``: the longest names that PyTorch knows."""
    words = fused.split("_")
    while words:
        ends = range(len(words), 1, -1)
        end = next((end for end in ends if "_".join(words[:end]) in _known()), 1)
        if name := "_".join(words[:end]):
            yield name
        words = words[end:]


@functools.cache
def _known() -> frozenset[str]:
    import torch

    return frozenset(
        name.partition("::")[2].partition(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith(("aten::", "prims::"))
    )


_NAMELESS = (
    "the library was compiled without its kernels' names, which cost time in every call; the model "
    "that it was made from tells them: strop profile MODEL --engine inductor"
)
