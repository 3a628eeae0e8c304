"""What the machine can do at best, and which of its limits a model runs into.

A call can take no less than its arithmetic at peak rate, nor less than its memory traffic at peak
bandwidth (Williams, Waterman and Patterson, "Roofline", Communications of the ACM 52(4), 2009).
Both peaks are measured, by what engines really do, rather than read off a data sheet.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Literal

import numpy as np

from strop.measure import workload
from strop.measure.conditions import PATIENCE, Conditions
from strop.measure.machine import granted_cpus, granted_memory
from strop.measure.subject import Subject
from strop.workers import Child

_SIZE = 1024
_BLOCK = 0.1
_ARRAY = 64 << 20  # bytes; or four times the last cache, as STREAM's rules ask
_MOST_ARRAY = 512 << 20
_ROUNDS = 5


@dataclass(frozen=True)
class Roofline:
    """Measured peaks of the granted part of a machine.

    Attributes
    ----------
    fp32
        Floating-point operations a second in a large FP32 matrix product.
    int8
        Operations a second in a large uint8 by int8 matrix product.
    bandwidth
        Bytes a second between processor and memory.
    threads
        Threads that all three used.
    """

    fp32: float
    int8: float
    bandwidth: float
    threads: int


@dataclass(frozen=True)
class Bound:
    """The least time that a call can take on a machine.

    Attributes
    ----------
    seconds
        The larger of the two limits.
    side
        ``compute`` or ``memory``: which of them it is.
    """

    seconds: float
    side: Literal["compute", "memory"]


def peaks(
    *,
    threads: int | None = None,
    cpus: Sequence[int] | None = None,
    engine: str = "onnxruntime",
    rounds: int = _ROUNDS,
) -> Roofline:
    """Measure the peaks; the best of several rounds counts, as noise only ever slows down.

    Takes some seconds. Products are of 1024 × 1024 matrices on the engine; the bandwidth is that
    of adding two large arrays into a third, by STREAM's count of 24 bytes an element (McCalpin,
    1995).

    Parameters
    ----------
    threads
        None means one a granted CPU.

    Raises
    ------
    ChildError
        When the engine fails.
    """
    cpus = granted_cpus() if cpus is None else tuple(cpus)
    threads = threads or len(cpus)
    return Roofline(
        fp32=_product_rate("fp32", engine, threads, cpus, rounds),
        int8=_product_rate("int8", engine, threads, cpus, rounds),
        bandwidth=_bandwidth(threads, cpus, rounds),
        threads=threads,
    )


def bound(flops: float, bytes_moved: float, peak: float, bandwidth: float) -> Bound:
    """The least seconds of a call with so many operations and bytes, and what sets them.

    Parameters
    ----------
    flops
        Operations of a call, a multiply-add counting two.
    bytes_moved
        Bytes that a call must read and write: weights, inputs, outputs.
    peak
        Operations a second: `Roofline.fp32` or `Roofline.int8`.
    bandwidth
        Bytes a second: `Roofline.bandwidth`.

    Examples
    --------
    >>> bound(2e9, 1e6, peak=1e11, bandwidth=1e10)
    Bound(seconds=0.02, side='compute')
    >>> bound(1e6, 1e9, peak=1e11, bandwidth=1e10)
    Bound(seconds=0.1, side='memory')
    """
    compute, memory = flops / peak, bytes_moved / bandwidth
    return Bound(compute, "compute") if compute >= memory else Bound(memory, "memory")


def stream_add(elements: int, threads: int, rounds: int) -> float:
    """Bytes a second of ``a = b + c`` over float64[elements], the best round; runs in a child."""
    a, b, c = np.zeros(elements), np.ones(elements), np.ones(elements)
    edges = np.linspace(0, elements, threads + 1).astype(int)

    def add(part: int) -> None:
        where = slice(edges[part], edges[part + 1])
        np.add(b[where], c[where], out=a[where])  # numpy lets go of the GIL meanwhile

    best = math.inf
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds + 1):  # the first one finds untouched pages
            start = perf_counter_ns()
            list(pool.map(add, range(threads)))
            best = min(best, (perf_counter_ns() - start) / 1e9)
    return 3 * a.nbytes / best


def _product_rate(
    kind: workload.Kind, engine: str, threads: int, cpus: Sequence[int], rounds: int
) -> float:
    with tempfile.TemporaryDirectory(prefix="strop-roofline-") as folder:
        spec, inputs = workload.matmul(
            Path(folder), size=_SIZE, threads=threads, kind=kind, engine=engine
        )
        with Subject("roofline", spec, inputs, conditions=Conditions(cpus=cpus)) as subject:
            subject.load()
            subject.warm(1.0)
            fastest = min(float(subject.block(_BLOCK).min()) for _ in range(rounds))
    return 2 * _SIZE**3 / fastest


def _bandwidth(threads: int, cpus: Sequence[int], rounds: int) -> float:
    size = min(max(_ARRAY, 4 * _last_cache()), _MOST_ARRAY, granted_memory() // 8)
    with Child(name="roofline", cpus=cpus if sys.platform == "linux" else None) as child:
        return float(
            child.call(
                "strop.measure.roofline:stream_add",
                timeout=PATIENCE,
                elements=size // 8,
                threads=threads,
                rounds=rounds,
            )
        )


def _last_cache() -> int:
    """Bytes of the largest cache that Linux reports; 0 elsewhere."""
    sizes = [0]
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
        sizes.append(int(text.rstrip("KMG")) * units.get(text[-1:], 1))
    return max(sizes)
