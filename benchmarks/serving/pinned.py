"""Functions in processes of their own, pinned to one core."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Bench:
    """Where everything runs, and how long.

    Attributes
    ----------
    load, serve
        The core of the generator and the core of the server.
    work
        A folder for models, logs and caches.
    seconds
        Of one measurement.
    """

    load: int
    serve: int
    work: Path
    venvs: Path
    rounds: int
    seconds: float


@contextmanager
def on(cpu: int) -> Iterator[Executor]:
    """A fresh process on one core, which runs one call after the other."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, _pin, (cpu,)) as executor:
        yield executor


def spread(values: list[float]) -> dict[str, float]:
    """Median and range over rounds."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return {"median": median, "low": ordered[0], "high": ordered[-1]}


def _pin(cpu: int) -> None:
    os.sched_setaffinity(0, {cpu})
    os.environ["OMP_NUM_THREADS"] = "1"
