"""ExecuTorch's event tracer: kernels and delegates of a program, and what XNNPACK runs inside one.

The runtime writes what it traced as a flatbuffer (``etdump_schema_flatcc.fbs`` in ExecuTorch), in
nanoseconds; XNNPACK's own profiler, which fills in the operators of its parts, counts whole
microseconds. A kernel is traced by its place in the program, which tells its name
(``program.fbs``). Both are read here, because ExecuTorch's readers import its whole compiler.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from strop.engines._flatbuffer import Table
from strop.engines.operators import WARM, OperatorTime, OperatorTimes, between
from strop.errors import NotApplicable

_KERNEL, _DELEGATE, _METHOD = "OPERATOR_CALL", "DELEGATE_CALL", "Method::execute"
_XNNPACK = re.compile(
    r"(?P<operator>[^(]+?) \((?P<layout>[^)]*)\)(?P<kernel>(?: .*?)?)(?P<number> #\d+)"
)
_PRECISIONS = {"Q": "int8", "S": "int8", "U": "int8", "F16": "float16", "F32": "float32"}
"""By how XNNPACK's types begin: QS8, QC8W, QD8 …; one is enough for a product of integers."""


@dataclass(frozen=True)
class Event:
    """One traced event of a run: the instruction that it belongs to, and nanoseconds.

    Attributes
    ----------
    inner
        What a delegate calls it; empty for what the runtime itself traces.
    """

    name: str
    instruction: int
    inner: str
    nanoseconds: int


def profile(call: Callable[[], object], program: Any, artifact: Path, runs: int) -> OperatorTimes:
    """Profile `runs` calls of a `program` that was loaded with its event tracer.

    Raises
    ------
    NotApplicable
        When this build of ExecuTorch traces nothing.
    """
    if not program.has_etdump():
        raise NotApplicable(_UNTRACED)
    calls = []
    for _ in range(WARM + runs):
        start = perf_counter()
        call()
        calls.append(perf_counter() - start)
    with tempfile.TemporaryDirectory(prefix="strop-") as scratch:
        dump = Path(scratch) / "events.etdp"
        program.write_etdump_result_to_file(str(dump))
        if not dump.is_file():
            raise NotApplicable(_UNTRACED)
        traced = list(events(dump.read_bytes()))
    # A batch that is larger than the program's memory goes in parts: several runs a call.
    parts = len(traced) // len(calls)
    if not parts or len(traced) % len(calls):
        raise NotApplicable(_UNTRACED)
    return times(instructions(artifact), traced[-runs * parts :], calls[WARM:])


def times(program: list[str], traced: list[list[Event]], calls: list[float]) -> OperatorTimes:
    """The operators of `calls`, whose events are `traced`, several runs to a call or one.

    Parameters
    ----------
    program
        What each instruction calls, as :func:`instructions` tells it.
    """
    parts = len(traced) // len(calls)
    seconds: dict[str, list[float]] = {}
    found: dict[str, _Described] = {}
    for place, run in enumerate(traced):
        opened = {event.instruction for event in run if event.inner}
        seen: Counter[str] = Counter()
        for event in run:
            # A delegate that tells its operators is those; the rest of its time is outside.
            if not event.inner and (
                event.name not in (_KERNEL, _DELEGATE) or event.instruction in opened
            ):
                continue
            known = 0 <= event.instruction < len(program)
            told = _described(event.inner or (program[event.instruction] if known else event.name))
            name = f"{event.instruction}/{told.name}"
            seen[name] += 1
            if seen[name] > 1:
                name += f" ({seen[name]})"
            found.setdefault(name, told)
            counted = seconds.setdefault(name, [0.0] * len(calls))
            counted[place // parts] += event.nanoseconds / 1e9
    operators = tuple(
        OperatorTime.over(
            counted,
            name=name,
            operator=found[name].operator,
            kernel=found[name].kernel,
            precision=found[name].precision,
        )
        for name, counted in seconds.items()
    )
    return OperatorTimes(operators, between(calls, list(seconds.values())))


def events(dump: bytes) -> Iterator[list[Event]]:
    """The events of each run of the method; loading is no run."""
    for run in Table.root(dump, prefix=4).tables(1):
        found = []
        for entry in run.tables(3):
            told = entry.table(0)
            if told is not None:
                begin, end = told.number(6, "Q", 0), told.number(7, "Q", 0)
                found.append(
                    Event(
                        name=told.text(0),
                        instruction=told.number(2, "i", -1),
                        inner=_inner(told),
                        nanoseconds=end - begin,
                    )
                )
        if any(event.name == _METHOD for event in found):
            yield found


def instructions(artifact: Path) -> list[str]:
    """What each instruction of a ``.pte`` calls: a kernel's name, or a delegate's."""
    plan = Table.root(artifact.read_bytes()).tables(1)[0]
    kernels = ["".join((it.text(0), "." * bool(it.text(1)), it.text(1))) for it in plan.tables(6)]
    delegates = [it.text(0) for it in plan.tables(7)]
    named = []
    for instruction in plan.tables(5)[0].tables(2):
        kind, call = instruction.number(0, "B", 0), instruction.table(1)
        called = {1: kernels, 2: delegates}.get(kind)
        named.append("" if call is None or called is None else called[call.number(0, "i", 0)])
    return named


def _inner(told: Table) -> str:
    """What a delegate calls its event: by a string, or by a number."""
    number = told.number(3, "i", -1)
    return told.text(4) or (f"delegate event {number}" if number >= 0 else "")


class _Described(NamedTuple):
    name: str
    operator: str
    kernel: str = ""
    precision: str = ""


def _described(text: str) -> _Described:
    """What was traced: XNNPACK writes ``Convolution (NHWC, F32) IGEMM #3``."""
    match = _XNNPACK.fullmatch(text)
    if match is None:
        return _Described(text, text)
    types = match["layout"].split(", ")
    precisions = (
        precision
        for begin, precision in _PRECISIONS.items()
        if any(one.startswith(begin) for one in types)
    )
    return _Described(
        name=match["operator"] + match["kernel"] + match["number"],
        operator=match["operator"],
        kernel=f"{match['kernel']} {match['layout']}".strip(),
        precision=next(precisions, ""),
    )


_UNTRACED = (
    "this build of ExecuTorch traces no events, so that its operators have no times; it needs "
    "EXECUTORCH_ENABLE_EVENT_TRACER when it is built, as its wheel 1.5.1 for Linux has it"
)
