"""How noisy this machine is: a session timed against itself."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from strop.measure import workload
from strop.measure.conditions import PLAIN, Conditions
from strop.measure.latency import speedup
from strop.measure.machine import granted_cpus
from strop.measure.pairs import PairTiming, pair
from strop.measure.subject import Inputs
from strop.records import Interval, SessionSpec

_SIZE = 256  # a product of a millisecond or less: as short as what people time


@dataclass(frozen=True)
class NoiseFloor:
    """The outcome of A/A launches.

    Attributes
    ----------
    ratio
        Speed-up of the session over itself; the truth is 1.
    timing
        The launches.
    """

    ratio: Interval
    timing: PairTiming

    @property
    def covers(self) -> bool:
        """Whether the interval holds the truth, as it must in 95 of 100 runs."""
        return self.ratio.low <= 1.0 <= self.ratio.high

    @property
    def detectable(self) -> float:
        """The smallest speed-up that as many launches can tell from none; infinite from one.

        The interval's half width on the log scale, as a ratio: 1.02 means that 2% can be seen.
        """
        if self.ratio.low <= 0 or math.isinf(self.ratio.high):
            return math.inf
        return math.sqrt(self.ratio.high / self.ratio.low)


def noise_floor(
    spec: SessionSpec,
    inputs: Inputs,
    *,
    launches: int = 5,
    quads: int = 4,
    seconds_per_block: float = 0.05,
    payload: bytes | None = None,
    emit: Callable[[str], None] | None = None,
    conditions: Conditions = PLAIN,
) -> NoiseFloor:
    """Time a session against itself, exactly as :func:`strop.measure.pair` times two.

    Raises
    ------
    TimingFailed
        When the session fails.
    StropError
        When not one launch was done before the deadline.
    """
    timing = pair(
        spec,
        spec,
        inputs,
        launches=launches,
        quads=quads,
        seconds_per_block=seconds_per_block,
        payloads=(payload, payload),
        emit=emit,
        conditions=conditions,
    )
    return NoiseFloor(speedup(timing, "itself").ratio, timing)


def machine_noise(
    *,
    launches: int = 5,
    threads: int | None = None,
    deadline: float | None = None,
    emit: Callable[[str], None] | None = None,
) -> NoiseFloor:
    """The noise floor of this machine, by a small matrix product on ONNX Runtime.

    Parameters
    ----------
    threads
        Threads of the product; None means one a granted CPU.
    """
    with tempfile.TemporaryDirectory(prefix="strop-noise-") as folder:
        spec, inputs = workload.matmul(
            Path(folder), size=_SIZE, threads=threads or len(granted_cpus())
        )
        conditions = Conditions(deadline=deadline)
        return noise_floor(spec, inputs, launches=launches, emit=emit, conditions=conditions)
