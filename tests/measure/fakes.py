"""A session that misbehaves on request; it lives in children, the tests never import it."""

from __future__ import annotations

import os
import struct
import threading
import time
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from strop.measure import tasks
from strop.records import SessionSpec


def load(spec, payload, inputs):
    parsed = SessionSpec.from_dict(spec)
    session = FakeSession(parsed, payload)
    if session.clock is not None:
        tasks.perf_counter_ns = session.clock.now
        import_module("strop.measure.meter").time = SimpleNamespace(
            perf_counter_ns=session.clock.now, process_time_ns=time.process_time_ns
        )
    tasks.hold(session, inputs)


class Clock:
    """Goes on by what calls are said to take alone, in each thread for itself.

    Calls that run at once so take as long as one of them; a busy machine changes nothing.
    """

    def __init__(self):
        self._latest = 0
        self._threads = {}

    def now(self):
        """Nanoseconds; of the first thread those of whichever came the furthest."""
        if threading.current_thread() is threading.main_thread():
            self._latest = max(self._latest, *self._threads.values(), 0)
            self._threads.clear()
            return self._latest
        return self._threads.setdefault(threading.get_ident(), self._latest)

    def take(self, seconds):
        """Let a call last so long in this thread."""
        after = self.now() + round(seconds * 1e9)
        if threading.current_thread() is threading.main_thread():
            self._latest = after
        else:
            self._threads[threading.get_ident()] = after


class FakeSession:
    concurrency = 1

    def __init__(self, spec, payload):
        self.signature = spec.signature
        self.options = spec.options
        self.thread_safe = not self.options.get("single_threaded")
        self.clock = Clock() if "takes" in self.options else None
        self.calls = 0
        self.kept = []
        if path := self.options.get("environment"):
            cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
            Path(path).write_text(f"{os.environ['OMP_NUM_THREADS']} {cpus}")
        if path := self.options.get("payload"):
            Path(path).write_bytes(payload.tobytes())
        if path := self.options.get("spans"):
            # Like a spinning thread pool: at work whether or not anybody calls.
            threading.Thread(target=_spin, args=(path,), daemon=True).start()
        if self.options.get("fail_to_load"):
            raise ValueError("this artefact is broken")

    def run(self, arrays):
        self.calls += 1
        if size := self.options.get("allocate"):
            self.kept.append(np.ones(size // 8))
            self.options.pop("allocate")
        if len(arrays["x"]) > self.options.get("largest_batch", 1 << 30):
            raise ValueError("the batch is too large")
        if self.calls == self.options.get("die_at"):
            os.abort()
        if self.calls == self.options.get("fail_at"):
            raise ValueError("the call failed")
        if self.calls == self.options.get("hang_at"):
            threading.Event().wait()
        if self.clock is not None:
            self.clock.take(self.options["takes"])
        else:
            time.sleep(self.options.get("sleep", 0.0005))
        return {"x": arrays["x"]}


def _spin(path):
    """Append the times of ticks: pairs of nanoseconds between which this process surely ran."""
    with Path(path).open("ab", buffering=0) as file:
        while True:
            begin = time.monotonic_ns()
            end = time.monotonic_ns()
            if end - begin < 1_000_000:
                file.write(struct.pack("<q", end))
            time.sleep(0.0005)
