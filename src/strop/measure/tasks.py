"""What runs inside a timed child: one session and one batch, called under a clock.

A child is timed by its own clock, so that the pipe to the parent is never part of a figure.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import threading
from collections.abc import Callable, Iterator, Mapping
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from strop.errors import NotApplicable, StropError
from strop.measure.meter import Meter, Stopwatch, meter
from strop.records import SessionSpec

if TYPE_CHECKING:
    from strop.engines._base import Session

_WINDOW_SECONDS = (0.02, 0.2)  # at least, and enough however few calls that is
_WINDOW_CALLS = 5
_SETTLED_WITHIN = 0.02
_QUIET_WINDOWS = 2

_session: Session | None = None
_inputs: Mapping[str, np.ndarray] = {}
_meter: Meter | None = None


def load(spec: dict[str, Any], payload: np.ndarray | None, inputs: dict[str, np.ndarray]) -> None:
    """Open the session that all later calls are about; `payload` holds bytes as uint8."""
    from strop.engines import open_session

    global _meter
    parsed = SessionSpec.from_dict(spec)
    _meter = meter(parsed.placement.device)
    given = None if payload is None else payload.tobytes()
    hold(open_session(parsed, payload=given), inputs)


def hold(session: Session, inputs: Mapping[str, np.ndarray]) -> None:
    """Make `session` the one that this process times, on one batch of `inputs`."""
    global _session
    _session = session
    feed(dict(inputs))


def feed(inputs: dict[str, np.ndarray]) -> None:
    """Replace the batch."""
    global _inputs
    _inputs = inputs


def warm(seconds: float) -> dict[str, Any]:
    """Call until the running median settles, for at most so many seconds and at least one call.

    Settled means that the medians of two windows in a row (of 5 calls and 20 ms, or 0.2 s) were
    not 2% below the lowest before them: warming up only ever speeds a session up, so that noise,
    which only ever slows it down, cannot keep us here.
    """
    run = _caller()
    best = np.inf
    quiet = calls = 0
    window: list[int] = []
    begin = perf_counter_ns()
    while quiet < _QUIET_WINDOWS:
        start = perf_counter_ns()
        run()
        end = perf_counter_ns()
        window.append(end - start)
        calls += 1
        if _is_full(window):
            median = float(np.median(window))
            quiet = 0 if median < best * (1 - _SETTLED_WITHIN) else quiet + 1
            best = min(best, median)
            window.clear()
        if end - begin >= seconds * 1e9:
            break
    if window and best == np.inf:
        best = float(np.median(window))
    return {"calls": calls, "seconds": best / 1e9, "settled": quiet >= _QUIET_WINDOWS}


def time_calls(seconds: float, calls: int, limit: float) -> dict[str, Any]:
    """Seconds of each call in a block, float64[n], and what those calls used up.

    The block lasts `seconds` and `calls` calls, whichever is more, but ends once `limit` seconds
    are spent. The first call finds cold caches and sleeping threads, as this process was stopped
    until now: it counts only where one call fills the whole block and the wake is lost in it.
    """
    run = _caller()
    times: list[int] = []
    with _no_collection():
        watch = Stopwatch(_meter)
        start = perf_counter_ns()
        run()
        first = perf_counter_ns() - start
        if first >= seconds * 1e9:
            times.append(first)
        else:
            watch = Stopwatch(_meter)
        spent = sum(times)
        while (spent < seconds * 1e9 or len(times) < calls) and (not times or spent < limit * 1e9):
            start = perf_counter_ns()
            run()
            took = perf_counter_ns() - start
            times.append(took)
            spent += took
        used = watch.stop(len(times))
    latencies = np.maximum(np.array(times, dtype=np.float64), 1.0) / 1e9
    return {"latencies": latencies, "used": used.to_dict()}


def run_streams(streams: int, seconds: float) -> dict[str, Any]:
    """Call from so many threads at once for `seconds`: seconds of each call, and what all used."""
    session = _held()
    if streams > 1 and not session.thread_safe:
        raise NotApplicable(
            f"a session that is not thread-safe cannot serve {streams} streams at once"
        )
    run = _caller()
    times: list[list[int]] = [[] for _ in range(streams)]
    errors: list[BaseException] = []
    begin = 0
    watch: Stopwatch | None = None

    def start() -> None:
        nonlocal begin, watch
        watch = Stopwatch(_meter)
        begin = perf_counter_ns()

    gate = threading.Barrier(streams, action=start)

    def stream(index: int) -> None:
        try:
            run()
            gate.wait()
            now = perf_counter_ns()
            while now - begin < seconds * 1e9 or not times[index]:
                run()
                end = perf_counter_ns()
                times[index].append(end - now)
                now = end
        except threading.BrokenBarrierError:
            pass  # another stream failed, and says why
        except BaseException as error:
            errors.append(error)
            gate.abort()

    threads = [threading.Thread(target=stream, args=(index,)) for index in range(streams)]
    with _no_collection():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        used = watch.stop(sum(map(len, times))) if watch else None
    if errors:
        raise errors[0]
    assert used is not None
    latencies = np.concatenate(times).astype(np.float64) / 1e9
    return {"latencies": latencies, "used": used.to_dict()}


def run_times(calls: int) -> None:
    """Call so many times; only what it leaves behind is of interest."""
    run = _caller()
    for _ in range(calls):
        run()


def nothing() -> None:
    """Do nothing in a process that has imported what every timed child imports, numpy included."""


def _held() -> Session:
    if _session is None:
        raise StropError("this process holds no session", hint="call load() first")
    return _session


def _caller() -> Callable[[], object]:
    return functools.partial(_held().run, _inputs)


def _is_full(window: list[int]) -> bool:
    enough, long = (limit * 1e9 for limit in _WINDOW_SECONDS)
    spent = sum(window)
    return spent >= long or (spent >= enough and len(window) >= _WINDOW_CALLS)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python's garbage collector, which an inference does not need, out of the figures."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
