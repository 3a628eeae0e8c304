"""Batch size, threads of a call and calls at once: where a candidate runs best, within a bound.

Pure planning: what a setting does is asked of `measure`, so that the same climb runs on a machine
and in a test whose best setting is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from strop.records import OperatingPoint, Recipe, Target

Measure = Callable[["Setting"], OperatingPoint | None]

BATCHES = tuple(1 << power for power in range(9))
"""A CPU gains little beyond some dozens of examples a call; memory and latency go on growing."""
GAIN = 1.03
"""A setting must be so many times better than where the climb began to be worth a trial."""
_STEP_GAIN = 1.01  # less is noise: a climb that follows it never ends
_FEW = 8
"""With so few settings to choose from, two in a row that gain nothing end a direction; else one."""

Direction = Literal[
    "larger batch",
    "smaller batch",
    "fewer threads",
    "more threads",
    "deal out",
    "gather",
    "more calls",
    "fewer calls",
]
_PLACES: tuple[Direction, ...] = (
    "fewer threads",
    "deal out",
    "gather",
    "more calls",
    "fewer calls",
    "more threads",
)


@dataclass(frozen=True)
class Setting:
    """Examples a call, threads of a call, and calls at once.

    Examples
    --------
    >>> print(Setting(16, 1, 2))
    batch 16, 2 calls at once, 1 thread each
    """

    batch: int
    threads: int
    streams: int = 1

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        if self.streams == 1:
            return f"batch {self.batch}, 1 call at a time, {threads}"
        return f"batch {self.batch}, {self.streams} calls at once, {threads} each"


@dataclass(frozen=True)
class Grid:
    """The settings that may be tried.

    Attributes
    ----------
    batches, threads, streams
        Values of each, ascending.
    cores
        What calls at once may take together; None where threads are not the CPU's.

    Examples
    --------
    >>> grid = Grid(batches=(1, 2, 4), threads=(1, 2), streams=(1, 2), cores=2)
    >>> grid.step(Setting(2, 2), "larger batch")
    Setting(batch=4, threads=2, streams=1)
    >>> grid.step(Setting(2, 2), "deal out")
    Setting(batch=2, threads=1, streams=2)
    >>> grid.step(Setting(2, 2), "more calls") is None
    True
    """

    batches: tuple[int, ...]
    threads: tuple[int, ...]
    streams: tuple[int, ...] = (1,)
    cores: int | None = None

    @property
    def size(self) -> int:
        """How many settings there are; with one there is nothing to choose."""
        calls = [(t, s) for t in self.threads for s in self.streams]
        return len(self.batches) * max(sum(self._fits(t, s) for t, s in calls), 1)

    def step(self, at: Setting, direction: Direction) -> Setting | None:
        """The next setting in a direction; None at the edge."""
        batch, threads, streams = at.batch, at.threads, at.streams
        if direction in ("larger batch", "smaller batch"):
            batch = _next(self.batches, batch, up=direction == "larger batch")
        if direction in ("more calls", "fewer calls", "deal out", "gather"):
            streams = _next(self.streams, streams, up=direction in ("more calls", "deal out"))
        if direction in ("more threads", "fewer threads"):
            threads = _next(self.threads, threads, up=direction == "more threads")
        if direction in ("deal out", "gather"):
            fit = [one for one in self.threads if self._fits(one, streams)]
            if direction == "deal out":
                threads = max((one for one in fit if one < threads), default=0)
            else:
                threads = max((one for one in fit if one > threads), default=0)
        if 0 in (batch, threads, streams) or not self._fits(threads, streams):
            return None
        return Setting(batch, threads, streams)

    def _fits(self, threads: int, streams: int) -> bool:
        return self.cores is None or threads * streams <= self.cores


def grid(target: Target, *, batch_is_free: bool, streams: bool, at: Setting) -> Grid:
    """What may be chosen for a candidate, `at` as the race timed it.

    Parameters
    ----------
    batch_is_free
        Whether neither the model nor the user fixes the batch size.
    streams
        Whether the engine serves several calls at once.

    Examples
    --------
    >>> from strop.measure import describe
    >>> machine = describe().model_copy(update={"cpus": (0, 1, 2, 3), "physical_cores": 4})
    >>> grid(Target(machine=machine), batch_is_free=False, streams=True, at=Setting(8, 4))
    Grid(batches=(8,), threads=(1, 2, 4), streams=(1,), cores=4)
    """
    cores = target.machine.cores
    at_once = target.goal in ("throughput", "cost")
    if not at_once and target.goal != "latency":
        return Grid((at.batch,), (at.threads,), (at.streams,), cores)
    on_cpu = target.device == "cpu"
    calls: tuple[int, ...] = (1, at.streams)
    if at_once and streams:
        calls = _ladder(cores, at.streams)
    threads: tuple[int, ...] = (at.threads,)
    if on_cpu and target.threads is None:
        dealt = (cores // count for count in calls)
        threads = _ladder(cores, at.threads, target.machine.physical_cores, *dealt)
    batches = tuple(sorted({*BATCHES, at.batch})) if batch_is_free and at_once else (at.batch,)
    return Grid(batches, threads, tuple(sorted(set(calls))), cores if on_cpu else None)


def explore(
    start: Setting,
    grid: Grid,
    measure: Measure,
    *,
    limit: float | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> list[OperatingPoint]:
    """Climb from `start` to where examples a second are most and p99 keeps the limit.

    For a number of threads and of calls at once the batch grows for as long as it gains, or
    shrinks until the limit is kept; they themselves change one step at a time, each with the batch
    that suits it, for as long as that gains. So a limit that a larger batch or more calls would
    break is no dead end: both change together.

    Parameters
    ----------
    measure
        What a setting does; None where it does not run.
    limit
        Seconds that 99% of calls may take.
    enough
        Whether the time is up; asked before every measurement but the first.

    Returns
    -------
    list
        What was measured, `start` first; empty where that does not run.

    Examples
    --------
    >>> from strop.records import Interval
    >>> def measure(at):  # a call costs 1 ms and 1 ms an example
    ...     seconds = 1e-3 * (1 + at.batch)
    ...     return OperatingPoint(
    ...         batch=at.batch, threads=at.threads, streams=at.streams, p50_seconds=seconds,
    ...         p99=Interval(estimate=seconds, low=seconds, high=seconds),
    ...         throughput=at.batch / seconds, calls=400,
    ...     )
    >>> batches = Grid(batches=(1, 2, 4, 8, 16), threads=(1,))
    >>> best(explore(Setting(2, 1), batches, measure, limit=0.006), 0.006).batch
    4
    """
    seen: dict[Setting, OperatingPoint | None] = {}

    def at(setting: Setting) -> OperatingPoint | None:
        if setting not in seen and not (seen and enough()):
            seen[setting] = measure(setting)
        return seen.get(setting)

    here = _with_batch(start, grid, at, limit)
    if here is None:
        return []
    patience = 2 if grid.size <= _FEW else 1
    moved = True
    while moved:
        moved = False
        for direction in _PLACES:
            misses, place = 0, grid.step(setting_of(here), direction)
            while place is not None and misses < patience:
                point = _with_batch(place, grid, at, limit)
                if point is None:
                    break
                misses += 1
                if _gains(point, here, limit):
                    here, moved, misses = point, True, 0
                place = grid.step(replace(place, batch=here.batch), direction)
    return [point for point in seen.values() if point is not None]


def best(points: Sequence[OperatingPoint], limit: float | None) -> OperatingPoint:
    """The point of most examples a second that keeps the limit; else the one of least p99."""
    return max(points, key=lambda point: _rank(point, limit))


def worth_trying(points: Sequence[OperatingPoint], limit: float | None) -> list[OperatingPoint]:
    """What is better than the first of `points` beyond noise, the best first."""
    start = points[0]
    better = [point for point in points[1:] if _gains(point, start, limit, GAIN)]
    kept = [point for point in better if keeps(point, limit)]
    return sorted(kept, key=lambda point: _rank(point, limit), reverse=True)


def keeps(point: OperatingPoint, limit: float | None) -> bool:
    """Whether 99% of calls were within the limit."""
    return limit is None or point.p99.estimate <= limit


def tuned(recipe: Recipe, point: OperatingPoint) -> Recipe:
    """The recipe, deployed at a point."""
    place = {"threads": point.threads, "streams": point.streams, "batch": point.batch}
    return recipe.model_copy(update={"deploy": recipe.deploy.model_copy(update=place)})


def setting_of(point: OperatingPoint) -> Setting:
    return Setting(point.batch, point.threads, point.streams)


def knee(points: Sequence[OperatingPoint], limit: float | None) -> OperatingPoint:
    """The smallest batch within 3% of the most examples a second that keeps the limit.

    Examples beyond the knee wait longer for next to nothing.
    """
    most = best(points, limit)
    near = [
        point
        for point in points
        if keeps(point, limit) and GAIN * point.throughput >= most.throughput
    ]
    return min(near, key=lambda point: point.batch, default=most)


def in_words(point: OperatingPoint, limit: float | None) -> str:
    """An operating point as a sentence for people.

    Examples
    --------
    >>> from strop.records import Interval
    >>> p99 = Interval(estimate=0.0109, low=0.0104, high=0.0116)
    >>> point = OperatingPoint(
    ...     batch=16, threads=1, streams=2, p50_seconds=0.004, p99=p99, throughput=8103.0, calls=900
    ... )
    >>> print(in_words(point, 0.012))
    at most 12 ms at p99: batch 16, 2 calls at once, 1 thread each: 8,100 examples a second; \
p99 10.9 ms [10.4, 11.6]
    >>> print(in_words(point.model_copy(update={"streams": 1}), None))
    batch 16, 1 call at a time, 1 thread: 8,100 examples a second; p99 10.9 ms [10.4, 11.6]
    """
    rate = float(f"{point.throughput:.3g}")
    said = f"{setting_of(point)}: {rate:,.6g} examples a second"
    p99 = point.p99
    tail = f"p99 {p99.estimate * 1e3:.3g} ms [{p99.low * 1e3:.3g}, {p99.high * 1e3:.3g}]"
    if limit is None:
        return f"{said}; {tail}"
    asked = f"{limit:.4g} s" if limit >= 1 else f"{limit * 1e3:.4g} ms"
    if not keeps(point, limit):
        return f"not within {asked} at p99: {said}; {tail}"
    surely = ""
    if not math.isfinite(p99.high):
        surely = ", of too few calls to bound it from above"
    elif p99.high > limit:
        surely = ", whose interval reaches above the bound"
    return f"at most {asked} at p99: {said}; {tail}{surely}"


def _with_batch(
    place: Setting,
    grid: Grid,
    at: Callable[[Setting], OperatingPoint | None],
    limit: float | None,
) -> OperatingPoint | None:
    """The best point found at the threads and calls of `place`, from its batch on."""
    first = at(place)
    if first is None:
        return None
    leader = _walk(first, grid, "larger batch", at, limit) if keeps(first, limit) else first
    if leader is first:
        leader = _walk(first, grid, "smaller batch", at, limit)
    return leader


def _walk(
    leader: OperatingPoint,
    grid: Grid,
    direction: Direction,
    at: Callable[[Setting], OperatingPoint | None],
    limit: float | None,
) -> OperatingPoint:
    """The last point in one direction that gains."""
    while (step := grid.step(setting_of(leader), direction)) is not None:
        point = at(step)
        if point is None or not _gains(point, leader, limit):
            break
        leader = point
    return leader


def _gains(
    point: OperatingPoint, over: OperatingPoint, limit: float | None, factor: float = _STEP_GAIN
) -> bool:
    if keeps(point, limit) != keeps(over, limit):
        return keeps(point, limit)
    if keeps(point, limit):
        return point.throughput > factor * over.throughput
    return point.p99.estimate * factor < over.p99.estimate


def _rank(point: OperatingPoint, limit: float | None) -> tuple[bool, float]:
    kept = keeps(point, limit)
    return kept, point.throughput if kept else -point.p99.estimate


def _next(values: tuple[int, ...], value: int, *, up: bool) -> int:
    """The next value; 0 where there is none."""
    if up:
        return min((one for one in values if one > value), default=0)
    return max((one for one in values if one < value), default=0)


def _ladder(top: int, *more: int) -> tuple[int, ...]:
    """1, 2, 4 … up to `top`, with `top` itself and `more`."""
    powers = {1 << power for power in range(top.bit_length()) if 1 << power <= top}
    return tuple(sorted({*powers, top, *(one for one in more if 1 <= one <= top)}))
