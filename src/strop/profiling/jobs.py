"""What runs in the child: a plain session that is watched and timed, then the same one profiled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from strop import engines
from strop.engines import OperatorTimes
from strop.errors import NotApplicable
from strop.profiling.accounting import Counted, count
from strop.records import SessionSpec

Emit = Callable[[dict[str, Any]], None]

_WARM_SECONDS = 0.2
_WARM_CALLS = 3
_SESSIONS = 3
_LEAST = 5
_LONGEST = 10.0  # seconds that calls may take together, beyond the fewest


def run(
    spec: dict[str, Any],
    payload: np.ndarray | None,
    arrays: dict[str, np.ndarray],
    runs: int,
    graph: str | None,
    own_graph: bool,
    emit: Emit,
) -> dict[str, Any]:
    """Time and profile one session; seconds of plain calls, operators and their counts.

    Where the engine has no times of operators there are none, and a reason.

    Parameters
    ----------
    graph
        The ONNX file that operations are counted in; None counts none.
    own_graph
        Whether the graph is the one that runs, so that its tensors' bytes are those that move.
    emit
        Told ``{"phase": …}`` when a phase begins.
    """
    opened = SessionSpec.from_dict(spec)
    given = None if payload is None else payload.tobytes()
    emit({"phase": "load"})
    session = engines.open_session(opened, payload=given)
    emit({"phase": "run"})
    plain = _time(session, arrays, runs)
    runs = len(plain)
    session.close()
    emit({"phase": "profile"})
    engine = engines.get(opened.engine)
    if given is not None:
        engine = engine.with_payload(given)
    share = -(-runs // _SESSIONS)
    try:
        times = middle(
            [
                engine.profile(
                    Path(opened.artifact),
                    opened.signature,
                    opened.options,
                    opened.placement,
                    arrays,
                    share,
                )
                for _ in range(_SESSIONS)
            ]
        )
    except NotApplicable as error:
        return {"seconds": plain, "outside_seconds": 0.0, "operators": [], "reason": error.message}
    counted = (
        [Counted(timed.flops, None, timed.nodes) for timed in times.operators]
        if graph is None
        else count(Path(graph), arrays, times.operators, own=own_graph)
    )
    return {
        "seconds": plain,
        "reason": "",
        "outside_seconds": times.outside_seconds,
        "operators": [
            {**dataclasses.asdict(timed), **dataclasses.asdict(figures)}
            for timed, figures in zip(times.operators, counted, strict=True)
        ],
    }


def middle(profiles: Sequence[OperatorTimes]) -> OperatorTimes:
    """For each operator the median over sessions of the same artefact.

    Where a session's buffers happen to lie may slow one of its operators in every call, and
    another one in the next session.
    """
    by_name = [{timed.name: timed for timed in one.operators} for one in profiles]
    operators = []
    for timed in profiles[0].operators:
        same = [names.get(timed.name, timed) for names in by_name]
        seconds, low, high = np.median([(one.seconds, one.low, one.high) for one in same], axis=0)
        operators.append(
            dataclasses.replace(timed, seconds=float(seconds), low=float(low), high=float(high))
        )
    outside = float(np.median([one.outside_seconds for one in profiles]))
    return OperatorTimes(tuple(operators), outside)


def _time(session: engines.Session, arrays: dict[str, np.ndarray], runs: int) -> np.ndarray:
    begin = perf_counter()
    calls = 0
    while calls < _WARM_CALLS or perf_counter() - begin < _WARM_SECONDS:
        session.run(arrays)
        calls += 1
    seconds: list[float] = []
    while len(seconds) < min(runs, _LEAST) or (len(seconds) < runs and sum(seconds) < _LONGEST):
        start = perf_counter()
        session.run(arrays)
        seconds.append(perf_counter() - start)
    return np.array(seconds)
