"""One session in a process of its own, stopped (SIGSTOP) whenever it is not the one timed.

Thread pools spin between calls, and engines that share a process or run beside one another spoil
each other's timings by large factors; a stopped process cannot.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from strop.measure.conditions import PLAIN, Conditions
from strop.measure.machine import granted_cpus
from strop.measure.meter import Usage
from strop.records import SessionSpec
from strop.workers import Child

Inputs = Mapping[str, np.ndarray]

_TASKS = "strop.measure.tasks"
_BLOCK_CALLS = 3
_FLOW_BLOCKS = 4
_BLOCK_LIMIT = 10.0  # seconds; a slower model gets blocks of one call
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Warmth:
    """How a warm-up went.

    Attributes
    ----------
    calls
        Calls that it took.
    seconds
        The lowest running median of a call.
    settled
        Whether the running median stopped falling before the time for it was up.
    """

    calls: int
    seconds: float
    settled: bool


@dataclass(frozen=True)
class Flow:
    """Calls that ran at once.

    Attributes
    ----------
    seconds
        From the start of all threads to the end of the last.
    latencies
        float64[calls]: seconds of each call, which share the machine while they run.
    used
        What all of them used up.
    """

    seconds: float
    latencies: np.ndarray
    used: Usage


@dataclass(frozen=True)
class Sample:
    """One slot of a comparison.

    Attributes
    ----------
    figure
        What is compared: the median call, or the mean time between calls that end.
    times
        float64[calls]: seconds of each call.
    used
        What those calls used up.
    """

    figure: float
    times: np.ndarray
    used: Usage


class Subject:
    """A child that holds one session and one batch of inputs.

    Between its methods' calls it stands still. Each of them raises
    :class:`~strop.workers.ChildError` when the session fails, dies, outgrows its memory, or does
    not answer in time: within `patience`, and before `deadline` where there is one.

    Parameters
    ----------
    name
        What error messages call it.
    spec, payload
        What to load (`strop.engines.open_session`). `payload` never touches the disk.
    inputs
        One batch of arrays by input name.
    conditions
        Its CPUs, its limits, and whether :meth:`sample` calls it from several threads.
    """

    def __init__(
        self,
        name: str,
        spec: SessionSpec,
        inputs: Inputs,
        *,
        payload: bytes | None = None,
        conditions: Conditions = PLAIN,
    ) -> None:
        self.spec = spec
        self._inputs = inputs
        self._payload = payload
        self._loader = conditions.loader
        self._patience = conditions.patience
        self._deadline = math.inf if conditions.deadline is None else conditions.deadline
        self._concurrent = conditions.concurrent
        self._paused = False
        chosen = granted_cpus() if conditions.cpus is None else tuple(conditions.cpus)
        self._child = Child(
            name=name,
            env=dict.fromkeys(_THREAD_VARIABLES, str(spec.placement.threads)),
            cpus=chosen if sys.platform == "linux" else None,
            memory_limit=conditions.memory_limit,
            preload=(_TASKS,),
        )

    def load(self) -> None:
        """Open the session."""
        payload = self._payload
        self._call(
            self._loader,
            spec=self.spec.to_dict(),
            payload=None if payload is None else np.frombuffer(payload, dtype=np.uint8),
            inputs=dict(self._inputs),
        )

    def feed(self, inputs: Inputs) -> None:
        """Replace the batch."""
        self._call(f"{_TASKS}:feed", inputs=dict(inputs))

    def warm(self, seconds: float) -> Warmth:
        """Call until the running median settles, for at most so many seconds."""
        return Warmth(**self._call(f"{_TASKS}:warm", longer=seconds, seconds=seconds))

    def block(self, seconds: float, *, calls: int = _BLOCK_CALLS) -> np.ndarray:
        """Seconds of each call in one block, float64[n], n ≥ 1.

        The block lasts `seconds` and `calls` calls, whichever is more, but no more than about
        ten seconds, or one call where that takes longer.
        """
        return self._timed(seconds, calls).times

    def stream(self, streams: int, seconds: float) -> Flow:
        """Call from so many threads at once for about `seconds`."""
        done = self._call(f"{_TASKS}:run_streams", longer=seconds, streams=streams, seconds=seconds)
        used = Usage(**done["used"])
        return Flow(seconds=used.seconds, latencies=done["latencies"], used=used)

    def sample(self, seconds: float) -> Sample:
        """One slot of a comparison: a block of calls, or a flow where calls run at once."""
        if not self._concurrent:
            return self._timed(seconds, _BLOCK_CALLS)
        streams = self.spec.placement.streams
        # Threads start and end apart, so that a flow takes longer to be told than a block.
        flow = self.stream(streams, _FLOW_BLOCKS * seconds)
        return Sample(flow.seconds / len(flow.latencies), flow.latencies, flow.used)

    def run(self, calls: int) -> None:
        """Call so many times, untimed."""
        self._call(f"{_TASKS}:run_times", longer=(calls - 1) * self._patience, calls=calls)

    def idle(self) -> None:
        """Wait until the child has imported what every timed child imports."""
        self._call(f"{_TASKS}:nothing")

    def rss(self) -> int:
        """Its resident set size now, in bytes."""
        return self._child.rss()

    def peak_rss(self) -> int:
        """Its largest resident set size so far, in bytes."""
        return self._child.peak_rss()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether the child can still be called."""
        return self._child.alive

    def close(self) -> None:
        """End the child; may be called again."""
        self._child.close()

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _timed(self, seconds: float, calls: int) -> Sample:
        limit = max(_BLOCK_LIMIT, 2 * seconds)
        done = self._call(
            f"{_TASKS}:time_calls", longer=limit, seconds=seconds, calls=calls, limit=limit
        )
        times: np.ndarray = done["latencies"]
        return Sample(float(np.median(times)), times, Usage(**done["used"]))

    def _call(self, function: str, *, longer: float = 0.0, **params: Any) -> Any:
        allowed = min(longer + self._patience, self._deadline - time.monotonic())
        with self._running():
            return self._child.call(function, timeout=max(allowed, 0.0), **params)

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        if self._paused:
            self._child.resume()
            self._paused = False
        try:
            yield
        finally:
            if self._child.alive:
                self._child.pause()
                self._paused = True


def batch_size(inputs: Inputs) -> int:
    """The first dimension of the first array that has one; 1 where none has.

    Examples
    --------
    >>> batch_size({"scale": np.float32(2).reshape(()), "x": np.zeros((8, 3))})
    8
    """
    return next((array.shape[0] for array in inputs.values() if array.ndim), 1)
