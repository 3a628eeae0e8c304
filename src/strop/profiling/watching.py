"""Resident memory of a child over time, sampled from outside while it works."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any, Literal

from strop.profiling.record import MemorySample
from strop.workers import Child, ChildError

Phase = Literal["import", "load", "run"]

_EVERY = 0.004  # seconds; a reading takes some 30 µs
_MOST = 300


class MemoryWatch:
    """Samples a child's resident set until its phase is ``profile`` or it is stopped."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._begin = time.perf_counter()
        self._phase: Phase = "import"
        self._samples: list[MemorySample] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-watch", daemon=True)

    def hear(self, event: dict[str, Any]) -> None:
        """Take an event of the child: ``{"phase": …}``."""
        phase = event.get("phase")
        if phase not in ("load", "run", "profile"):
            return
        # However short the phase that ends was, and however busy the machine: it is not left out.
        with contextlib.suppress(ChildError):
            self._sample()
        if phase == "profile":
            self._stop.set()
        else:
            self._phase = phase

    def samples(self) -> tuple[MemorySample, ...]:
        """At most some 300 of them, evenly thinned, first and last kept."""
        step = max(len(self._samples) // _MOST, 1)
        thinned = self._samples[::step]
        if self._samples and thinned[-1] is not self._samples[-1]:
            thinned.append(self._samples[-1])
        return tuple(thinned)

    def peak(self) -> int:
        """The most of all samples, thinned or not; 0 without any."""
        return max((sample.bytes for sample in self._samples), default=0)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                self._sample()
            except ChildError:  # it is gone; whoever waits for its answer says why
                return
            self._stop.wait(_EVERY)

    def _sample(self) -> None:
        with self._lock:
            held = self._child.rss()
            seconds = time.perf_counter() - self._begin
            self._samples.append(MemorySample(seconds=seconds, bytes=held, phase=self._phase))
