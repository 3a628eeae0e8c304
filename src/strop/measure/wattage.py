"""What a busy CPU takes by the counters: what an estimate of energy is held against."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from strop.measure.meter import Meter, Stopwatch, idle_watts

_SIDE = 512


@dataclass(frozen=True)
class Wattage:
    """Counted while matrix products ran.

    Attributes
    ----------
    counters
        The meter's name.
    per_core
        Joules over CPU seconds: watts of one busy logical CPU, with the idle power of the whole
        machine in it, as measured energies have it.
    idle
        Watts while nothing ran; None where that failed.
    cpu_seconds
        What `per_core` was taken over.
    """

    counters: str
    per_core: float
    idle: float | None
    cpu_seconds: float


def wattage(found: Meter, seconds: float = 2.0) -> Wattage | None:
    """Multiply matrices for so long and read the counters; None where they fail or stand still."""
    idle = idle_watts(found)
    a = np.ones((_SIDE, _SIDE), np.float32)
    a @ a  # the library starts its threads
    watch, calls = Stopwatch(found), 0
    end = time.monotonic() + seconds
    while not calls or time.monotonic() < end:
        a @ a
        calls += 1
    used = watch.stop(calls)
    if not used.joules or used.cpu_seconds <= 0:
        return None
    return Wattage(found.name, used.joules / used.cpu_seconds, idle, used.cpu_seconds)
