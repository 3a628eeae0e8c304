"""What calls use up: seconds, CPU seconds and, where hardware counts them, joules."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from strop.measure import nvml, rapl


class Counter(Protocol):
    """A hardware counter of energy that runs up and begins at nought again."""

    @property
    def name(self) -> str: ...
    @property
    def wraps_at(self) -> int: ...
    @property
    def joules_a_step(self) -> float: ...

    def read(self) -> int: ...


@dataclass(frozen=True)
class Usage:
    """What a number of calls used up, all threads of the process together.

    Attributes
    ----------
    calls
        Timed calls.
    seconds
        Of the wall clock, from the first call's start to the last one's end.
    cpu_seconds
        CPU time of the process in the meantime, its thread pools' spinning included.
    joules
        By the counters; None where there are none.
    """

    calls: int
    seconds: float
    cpu_seconds: float
    joules: float | None = None

    def __add__(self, other: Usage) -> Usage:
        known = self.joules is not None and other.joules is not None
        return Usage(
            self.calls + other.calls,
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            (self.joules or 0.0) + (other.joules or 0.0) if known else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


class Meter:
    """Counters that are read together.

    Examples
    --------
    >>> meter = Meter(())
    >>> meter.joules_since(meter.read()), meter.name
    (0, '')
    """

    def __init__(self, counters: Sequence[Counter]) -> None:
        self._counters = tuple(counters)

    @property
    def name(self) -> str:
        """The counters by name."""
        return " + ".join(counter.name for counter in self._counters)

    def read(self) -> tuple[int, ...]:
        """The raw counters now."""
        return tuple(counter.read() for counter in self._counters)

    def joules_since(self, earlier: Sequence[int]) -> float:
        """Joules since an earlier reading, in which no counter ran round more than once.

        A package's counter runs round after a quarter of an hour under full load or later; blocks
        of timed calls last seconds.
        """
        return sum(
            ((now - before) % counter.wraps_at) * counter.joules_a_step
            for counter, before, now in zip(self._counters, earlier, self.read(), strict=True)
        )


def meter(device: str = "cpu", *, root: Path = rapl.ROOT) -> Meter | None:
    """The counters that tell what calls on `device` use; None where the machine has none.

    A CUDA device is its board's counter, and the packages' where they can be read; everything else
    is part of the packages.
    """
    packages = rapl.packages(root)
    if device.lower().startswith(("cuda", "tensorrt")):
        _, _, index = device.partition(":")
        board = nvml.board(int(index) if index.isdigit() else 0)
        return None if board is None else Meter((board, *packages))
    return Meter(packages) if packages else None


def idle_watts(found: Meter, seconds: float = 1.0) -> float | None:
    """Watts that the counters show while this process sleeps; None where they fail."""
    try:
        earlier, start = found.read(), time.monotonic()
        time.sleep(seconds)
        return found.joules_since(earlier) / (time.monotonic() - start)
    except OSError:
        return None


class Stopwatch:
    """Runs from its making; :meth:`stop` tells what was used up since."""

    def __init__(self, found: Meter | None = None) -> None:
        self._meter = found
        self._readings: tuple[int, ...] | None = None
        # The clocks are read within the counters, so that reading those is no part of the times.
        # A counter that fails costs the measurement of energy, not the timing.
        with contextlib.suppress(OSError):
            self._readings = found.read() if found else None
        self._cpu = time.process_time_ns()
        self._wall = time.perf_counter_ns()

    def stop(self, calls: int) -> Usage:
        """What was used up, by so many calls."""
        wall = time.perf_counter_ns() - self._wall
        cpu = time.process_time_ns() - self._cpu
        joules = None
        if self._meter and self._readings is not None:
            with contextlib.suppress(OSError):
                joules = self._meter.joules_since(self._readings)
        return Usage(calls, wall / 1e9, cpu / 1e9, joules)
