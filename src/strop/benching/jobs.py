"""What runs in the child: one session as LoadGen's system under test.

LoadGen calls from threads of its own and must never see an exception: what a call raises is kept,
later queries are answered without work, and the run is refused at its end.
"""

from __future__ import annotations

import queue
import shutil
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from strop import engines
from strop.benching.logs import figures, latencies
from strop.engines import Session
from strop.errors import InputError, MissingExtra, StropError
from strop.measure import Meter, Stopwatch, meter
from strop.records import SessionSpec

_WARM_SECONDS = 0.5
_KEPT = ("mlperf_log_summary.txt", "mlperf_log_detail.txt", "mlperf_log_accuracy.json")
_MOST_TRACED = 400_000
"""Queries beyond which no histogram is kept: a trace line is some 700 bytes a query."""

_session: Session | None = None
_samples: dict[str, np.ndarray] = {}
_meter: Meter | None = None


def load(spec: dict[str, Any], samples: dict[str, np.ndarray]) -> dict[str, Any]:
    """Open the session that later runs are about; LoadGen's version and what the session can."""
    global _session, _samples, _meter
    _loadgen()
    parsed = SessionSpec.from_dict(spec)
    _session = engines.open_session(parsed)
    _samples = samples
    _meter = meter(parsed.placement.device)
    from importlib.metadata import version

    return {"loadgen": version("mlcommons-loadgen"), "thread_safe": _session.thread_safe}


def pace(batch: int, seconds: float) -> float:
    """Median seconds of a call of `batch` examples, after a warm-up."""
    rows = np.arange(batch)
    begin = perf_counter()
    times: list[float] = []
    while perf_counter() - begin < _WARM_SECONDS + seconds or len(times) < 3:
        start = perf_counter()
        _call(rows)
        if perf_counter() - begin >= _WARM_SECONDS:
            times.append(perf_counter() - start)
    return float(np.median(times))


def run(
    scenario: str,
    settings: dict[str, Any],
    batch: int,
    streams: int,
    trace: bool,
    logs: str | None = None,
) -> dict[str, Any]:
    """One LoadGen run; the figures of its log, and the latencies where a trace was kept.

    Parameters
    ----------
    settings
        Attributes of ``mlperf_loadgen.TestSettings``.
    batch
        The most examples in one call.
    streams
        Threads that call the session at once.
    logs
        A folder for LoadGen's own logs, in place of those of an earlier run there.
    """
    loadgen = _loadgen()
    asked = loadgen.TestSettings()
    asked.scenario = getattr(loadgen.TestScenario, scenario)
    asked.mode = loadgen.TestMode.PerformanceOnly
    for name, value in settings.items():
        setattr(asked, name, value)
    count = len(next(iter(_samples.values())))
    system = _System(loadgen, batch)
    threaded = scenario in ("Server", "Offline")
    if threaded:
        system.start(streams)
    with tempfile.TemporaryDirectory(prefix="strop-loadgen-") as folder:
        log = loadgen.LogSettings()
        log.log_output.outdir = folder
        log.log_output.copy_summary_to_stdout = False
        log.enable_trace = trace
        under_test = loadgen.ConstructSUT(system.put if threaded else system.answer, _nothing)
        library = loadgen.ConstructQSL(count, count, _ignore, _ignore)
        watch = Stopwatch(_meter)
        try:
            loadgen.StartTestWithLogSettings(under_test, library, asked, log, "")
        finally:
            used = watch.stop(0)
            loadgen.DestroyQSL(library)
            loadgen.DestroySUT(under_test)
            system.stop()
        if logs is not None:
            _keep(Path(folder), Path(logs))
        if system.error is not None:
            raise StropError(f"a call failed under load: {system.error}") from system.error
        found = figures(Path(folder))
        traced = trace and found.get("result_query_count", 0) <= _MOST_TRACED
        return {
            "figures": found,
            "seconds": used.seconds,
            "used": replace(used, calls=system.answered).to_dict(),
            "samples": system.answered,
            "latencies": latencies(Path(folder)) if traced else None,
        }


class _System:
    """Takes LoadGen's queries, runs them in calls of at most `batch`, tells when they are done."""

    def __init__(self, loadgen: Any, batch: int) -> None:
        self.error: Exception | None = None
        self.answered = 0
        self._loadgen = loadgen
        self._batch = batch
        self._waiting: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._workers: list[threading.Thread] = []

    def start(self, streams: int) -> None:
        """Let so many threads answer what :meth:`put` takes."""
        self._workers = [
            threading.Thread(target=self._work, name=f"stream-{index}", daemon=True)
            for index in range(streams)
        ]
        for worker in self._workers:
            worker.start()

    def stop(self) -> None:
        """End the threads once all that waits is answered."""
        for _ in self._workers:
            self._waiting.put(None)
        for worker in self._workers:
            worker.join()

    def put(self, query: Any) -> None:
        """Queue the samples of a query and return at once."""
        for sample in query:
            self._waiting.put((sample.id, sample.index))

    def answer(self, query: Any) -> None:
        """Answer a query in LoadGen's own thread."""
        samples = [(sample.id, sample.index) for sample in query]
        for begin in range(0, len(samples), self._batch):
            self._answer(samples[begin : begin + self._batch])

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            taken = [first]
            while len(taken) < self._batch:  # what waits already; nobody waits for more
                try:
                    sample = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if sample is None:
                    self._waiting.put(None)
                    break
                taken.append(sample)
            self._answer(taken)

    def _answer(self, samples: list[tuple[int, int]]) -> None:
        if self.error is None:
            try:
                _call(np.array([index for _, index in samples]))
            except Exception as error:
                self.error = error
        response = self._loadgen.QuerySampleResponse
        self._loadgen.QuerySamplesComplete([response(number, 0, 0) for number, _ in samples])
        with self._lock:
            self.answered += len(samples)


def _call(rows: np.ndarray) -> None:
    assert _session is not None, "load() comes first"
    _session.run({name: array[rows % len(array)] for name, array in _samples.items()})


def _loadgen() -> Any:
    try:
        import mlperf_loadgen
    except ImportError as error:
        raise MissingExtra("mlcommons-loadgen", extra="bench") from error
    return mlperf_loadgen


def _keep(folder: Path, logs: Path) -> None:
    """Copy what LoadGen judged the run by; the trace, a line a query, is left out."""
    try:
        logs.mkdir(parents=True, exist_ok=True)
        for name in _KEPT:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, logs / name)
    except OSError as error:
        raise InputError(
            f"LoadGen's logs cannot be written to '{logs}': {error.strerror or error}",
            hint="make room, or name another folder",
        ) from error


def _nothing() -> None:
    """Nothing is held back, so there is nothing to flush."""


def _ignore(indices: Any) -> None:
    """All samples are in memory already."""
