"""PyTorch's profiler: operators by the submodule that calls them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

from strop.engines.operators import WARM, OperatorTime, OperatorTimes, between

_MARK = "strop:"
_CALL = "strop:call"


def profile(call: Callable[[], object], runs: int) -> OperatorTimes:
    """Profile `runs` calls.

    An operator is what a module calls: ``aten::linear`` counts whole, with the ``aten::addmm``
    inside it. Operations are what torch.profiler counts, products and convolutions above all.
    """
    from torch.profiler import ProfilerActivity, record_function
    from torch.profiler import profile as record

    for _ in range(WARM):
        call()
    with (
        _marked_modules(),
        record(
            activities=[ProfilerActivity.CPU], record_shapes=True, with_flops=True, acc_events=True
        ) as profiler,
    ):
        call()  # the first one under the profiler starts it
        calls = []
        for _ in range(runs):
            start = perf_counter()
            with record_function(_CALL):
                call()
            calls.append(perf_counter() - start)
    found: dict[tuple[str, str, int], list[Any]] = {}
    inside = []
    roots = [event for event in profiler.events() if event.name == _CALL]
    for root in roots:
        seen: Counter[tuple[str, str]] = Counter()
        below = list(_operators(root, ""))
        inside.append(sum(event.cpu_time_total for _, event in below) / 1e6)
        for path, event in below:
            found.setdefault((path, event.name, seen[path, event.name]), []).append(event)
            seen[path, event.name] += 1
    operators = []
    for (path, kind, number), events in found.items():
        times = [event.cpu_time_total / 1e6 for event in events]
        place = f"{path}/{kind}" if path else kind
        operators.append(
            OperatorTime.over(
                times + [0.0] * (len(roots) - len(times)),
                name=place if number == 0 else f"{place}#{number + 1}",
                operator=kind,
                nodes=(path,) if path else (),
                flops=_flops(events[0]) or None,
            )
        )
    return OperatorTimes(tuple(operators), between(calls, [inside]))


def _operators(event: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The outermost operators below an event, each with the path of the module that calls it."""
    for child in event.cpu_children:
        if child.name.startswith(_MARK):
            yield from _operators(child, child.name.removeprefix(_MARK))
        else:
            yield path, child


def _flops(event: Any) -> int:
    return int(event.flops or 0) or sum(_flops(child) for child in event.cpu_children)


@contextlib.contextmanager
def _marked_modules() -> Iterator[None]:
    """Let every module write its path into the profile while it runs."""
    from torch.nn.modules import module as modules
    from torch.profiler import record_function

    names: dict[int, str] = {}
    marks: list[Any] = []

    def enter(module: Any, arguments: Any) -> None:
        if not marks:
            names.update((id(part), name) for name, part in module.named_modules())
        mark = record_function(_MARK + names.get(id(module), type(module).__name__))
        mark.__enter__()
        marks.append(mark)

    def leave(module: Any, arguments: Any, result: Any) -> None:
        marks.pop().__exit__(None, None, None)

    hooks = [
        modules.register_module_forward_pre_hook(enter),
        modules.register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
