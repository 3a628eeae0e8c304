"""Two sessions timed against each other, launch by launch: the figures that a speed-up rests on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from strop.errors import StropError
from strop.measure.conditions import PLAIN, Conditions
from strop.measure.meter import Usage
from strop.measure.subject import Inputs, Sample, Subject, batch_size
from strop.proof.speed import launch_log_ratio
from strop.records import SessionSpec
from strop.workers import ChildError

Side = Literal["a", "b"]

_ABBA: tuple[Side, ...] = ("a", "b", "b", "a")
_BAAB: tuple[Side, ...] = ("b", "a", "a", "b")
_SLACK = 1.1  # a launch may take so many times as long as the longest before it


@dataclass(frozen=True)
class PairTiming:
    """Timings of two sessions, `a` the reference and `b` the candidate.

    Attributes
    ----------
    log_ratios
        float64[launches]: the log of a's time over b's, one a launch; positive where b is faster.
    quads
        Per launch float64[quads, 4]: seconds of a call in the blocks a, b, b, a: the median, or
        where `concurrent` the time between calls that end. Where b has a batch of its own, its
        seconds are for as many examples as a's.
    a_seconds, b_seconds
        Per launch float64[calls]: seconds of every timed call.
    batch
        Examples a call, of a.
    b_batch
        Examples a call of b; None means as many.
    shortened
        Whether the deadline left fewer launches or quads than were asked for.
    settled
        Whether every warm-up settled before its time was up.
    concurrent
        Whether as many calls ran at once as each side has streams.
    a_used, b_used
        Per launch what the timed calls used up.
    """

    log_ratios: np.ndarray
    quads: tuple[np.ndarray, ...]
    a_seconds: tuple[np.ndarray, ...]
    b_seconds: tuple[np.ndarray, ...]
    batch: int
    shortened: bool
    settled: bool
    concurrent: bool = False
    a_used: tuple[Usage, ...] = ()
    b_used: tuple[Usage, ...] = ()
    b_batch: int | None = None

    @property
    def batches(self) -> tuple[int, int]:
        """Examples a call of a and b."""
        return self.batch, self.b_batch or self.batch

    @property
    def rates(self) -> tuple[float, float]:
        """Examples a second of a and b: the batch over the median of all blocks."""
        a, b = (np.concatenate([quads[:, k] for quads in self.quads]) for k in ([0, 3], [1, 2]))
        return self.batch / float(np.median(a)), self.batch / float(np.median(b))

    @property
    def launches(self) -> int:
        """Pairs of fresh processes that were timed."""
        return len(self.log_ratios)


class TimingFailed(StropError):
    """One of the two sessions failed while it was timed.

    Attributes
    ----------
    side
        Which: ``a`` or ``b``.
    error
        How it failed.
    """

    def __init__(self, side: Side, error: ChildError) -> None:
        super().__init__(f"timing failed: {error.message}", hint=error.hint)
        self.side = side
        self.error = error


def pair(
    a: SessionSpec,
    b: SessionSpec,
    inputs: Inputs,
    *,
    b_inputs: Inputs | None = None,
    launches: int = 10,
    quads: int = 4,
    seconds_per_block: float = 0.05,
    warmup_seconds: float = 3.0,
    payloads: tuple[bytes | None, bytes | None] | None = None,
    emit: Callable[[str], None] | None = None,
    conditions: Conditions = PLAIN,
) -> PairTiming:
    """Time `b` against `a` over fresh launches, each of ABBA quads.

    A launch starts two fresh processes, one a session, each warmed until its running median
    settles. In each slot of a quad one of them is timed while the other stands stopped. The
    launch's figure is the median over its quads (:func:`strop.proof.launch_log_ratio`); launches,
    not calls, are the independent units (Kalibera and Jones, ISMM 2013).

    It ends: every step has a timeout, warm-ups and blocks are bounded, and no number of calls is
    taken until some noise level is met. A noisy machine gives wider intervals instead.

    Parameters
    ----------
    a, b
        The reference and the candidate; they may be the same for an A/A run.
    inputs
        One batch of arrays by input name, for both.
    b_inputs
        A batch of its own for `b`: the ratio is then that of the times of as many examples.
    launches, quads
        Pairs of processes, and ABBA quads in each.
    seconds_per_block
        A block lasts so long, and three calls at least.
    warmup_seconds
        The longest warm-up.
    payloads
        Pickled modules for `a` and `b`, where their engine needs one.
    emit
        Takes a short line for the progress view at every launch.
    conditions
        CPUs, limits, and whether calls run at once. As its deadline nears, fewer launches are
        made and `shortened` is set.

    Raises
    ------
    TimingFailed
        When a session fails, dies or hangs in any launch: what crashes in one launch of ten is
        not to be delivered.
    """
    specs: dict[Side, SessionSpec] = {"a": a, "b": b}
    given: dict[Side, bytes | None] = dict(zip(specs, payloads or (None, None), strict=True))
    fed: dict[Side, Inputs] = {"a": inputs, "b": inputs if b_inputs is None else b_inputs}
    batch, b_batch = (batch_size(fed[side]) for side in specs)
    done: list[_Launch] = []
    longest = 0.0
    shortened, deadline = False, conditions.deadline
    for number in range(launches):
        start = time.monotonic()
        if deadline is not None and start + _SLACK * longest >= deadline:
            shortened = True
            break
        if emit is not None:
            emit(f"timing launch {number + 1} of {launches}")
        with contextlib.ExitStack() as stack:
            # Both interpreters start at once; everything after that takes turns.
            subjects = {
                side: stack.enter_context(
                    Subject(
                        f"timing {side}",
                        spec,
                        fed[side],
                        payload=given[side],
                        conditions=conditions,
                    )
                )
                for side, spec in _in_turn(specs, number)
            }
            launch = _Launch(subjects, deadline, batch / b_batch)
            shortened = not launch.time(quads, seconds_per_block, warmup_seconds)
        if launch.quads:
            done.append(launch)
        if shortened:
            break
        longest = max(longest, time.monotonic() - start)
    return PairTiming(
        log_ratios=np.array([launch_log_ratio(launch.quads) for launch in done]),
        quads=tuple(np.array(launch.quads) for launch in done),
        a_seconds=tuple(np.concatenate(launch.seconds["a"]) for launch in done),
        b_seconds=tuple(np.concatenate(launch.seconds["b"]) for launch in done),
        batch=batch,
        b_batch=b_batch,
        shortened=shortened,
        settled=all(launch.settled for launch in done),
        concurrent=conditions.concurrent,
        a_used=tuple(launch.used["a"] for launch in done),
        b_used=tuple(launch.used["b"] for launch in done),
    )


class _Launch:
    """Two fresh processes, timed in turns until the quads are done or the deadline is here."""

    def __init__(self, subjects: dict[Side, Subject], deadline: float | None, scale: float) -> None:
        self.quads: list[list[float]] = []
        self.seconds: dict[Side, list[np.ndarray]] = {"a": [], "b": []}
        self.used: dict[Side, Usage] = {}
        self.settled = True
        self._subjects = subjects
        self._deadline = deadline
        self._scale = scale

    def time(self, quads: int, seconds: float, warmup: float) -> bool:
        """Whether all quads were done."""
        try:
            for side, subject in self._subjects.items():
                with _blaming(side):
                    subject.load()
            for side, subject in self._subjects.items():
                with _blaming(side):
                    self.settled &= subject.warm(warmup).settled
            for number in range(quads):
                # Every other quad is mirrored, so that neither session always comes second.
                self._time_quad(_BAAB if number % 2 else _ABBA, seconds)
        except TimingFailed:
            if self._deadline is not None and time.monotonic() >= self._deadline:
                return False  # cut off by the clock, which says nothing about the session
            raise
        return True

    def _time_quad(self, order: tuple[Side, ...], seconds: float) -> None:
        blocks: dict[Side, list[Sample]] = {"a": [], "b": []}
        for side in order:
            with _blaming(side):
                blocks[side].append(self._subjects[side].sample(seconds))
        (a1, a2), (b1, b2) = blocks["a"], blocks["b"]
        scales = (1.0, self._scale, self._scale, 1.0)
        figures = (block.figure for block in (a1, b1, b2, a2))
        self.quads.append([x * scale for x, scale in zip(figures, scales, strict=True)])
        for side, timed in blocks.items():
            self.seconds[side] += [block.times for block in timed]
            first, second = (block.used for block in timed)
            both = first + second
            self.used[side] = self.used[side] + both if side in self.used else both


@contextlib.contextmanager
def _blaming(side: Side) -> Iterator[None]:
    try:
        yield
    except ChildError as error:
        raise TimingFailed(side, error) from error


def _in_turn(specs: dict[Side, SessionSpec], number: int) -> list[tuple[Side, SessionSpec]]:
    """The sides in the order in which a launch starts them: each is first in every other one."""
    sides = list(specs.items())
    return sides[::-1] if number % 2 else sides
