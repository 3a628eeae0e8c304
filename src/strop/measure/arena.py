"""Many sessions timed beside each other in rounds: for ordering candidates, never for a claim."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from strop.errors import StropError
from strop.measure.conditions import PLAIN, Conditions
from strop.measure.machine import granted_memory
from strop.measure.meter import Usage
from strop.measure.subject import Inputs, Sample, Subject, batch_size
from strop.records import SessionSpec
from strop.workers import ChildError

_MEMORY_SHARE = 0.5
_MOST_ALIVE = 16


@dataclass(frozen=True)
class ScreenTiming:
    """What the rounds say of one session.

    Attributes
    ----------
    rounds
        float64[rounds]: median seconds of a call in each round; empty where it was never timed. Of
        a session with a batch of its own, the seconds that as many examples take as the others'.
    ratio
        Time of the first session over this one's, median over the rounds that both finished;
        above 1 is faster than the first. NaN where there is none.
    error
        Why it left, where it failed, died or hung; earlier rounds are kept.
    calls
        float64[calls]: seconds of each call of all rounds.
    used
        What the timed calls of each round used up, a round of `rounds` each.
    """

    rounds: np.ndarray
    ratio: float
    error: ChildError | None = None
    calls: np.ndarray = field(default_factory=lambda: np.array([]))
    used: tuple[Usage, ...] = ()

    @property
    def seconds(self) -> float:
        """Median over the rounds; NaN where there are none."""
        return float(np.median(self.rounds)) if len(self.rounds) else float("nan")


class Arena:
    """Sessions alive at once, of which only one runs at a time.

    Each session has a process of its own, loaded and warmed when it is added and stopped until its
    slot in a round. A session that fails leaves with its error, one that the deadline cuts off
    without; the others go on.

    Parameters
    ----------
    inputs
        One batch of arrays by input name, for all that bring none of their own.
    seconds
        A slot lasts so long, and three calls at least.
    warmup_seconds
        The longest warm-up of a session.
    memory
        Bytes of resident memory that all sessions may hold together before :attr:`full` says so;
        None means half of what this process may use.
    seed
        Seed of the order within rounds.
    conditions
        As :func:`strop.measure.pair` takes them.

    Examples
    --------
    Used as a race: add candidates, drop the losers, time only the living::

        with Arena(inputs) as arena:
            for name, spec in specs.items():
                arena.add(name, spec)
            arena.round()
            arena.drop(max(arena.names, key=lambda name: arena.timings()[name].seconds))
            arena.round()
    """

    def __init__(
        self,
        inputs: Inputs,
        *,
        seconds: float = 0.05,
        warmup_seconds: float = 3.0,
        memory: int | None = None,
        seed: int = 0,
        conditions: Conditions = PLAIN,
    ) -> None:
        self._inputs = inputs
        self._seconds = seconds
        self._warmup = warmup_seconds
        self._memory = int(granted_memory() * _MEMORY_SHARE) if memory is None else memory
        self._order = random.Random(seed)
        self._conditions = conditions
        self._living: dict[str, Subject] = {}
        self._rounds: list[dict[str, Sample]] = []
        self._errors: dict[str, ChildError | None] = {}
        self._scales: dict[str, float] = {}

    def add(
        self,
        name: str,
        spec: SessionSpec,
        payload: bytes | None = None,
        inputs: Inputs | None = None,
    ) -> ChildError | None:
        """Load and warm a session under a new name; the error where it fails.

        Parameters
        ----------
        inputs
            A batch of its own; None takes the arena's.

        Raises
        ------
        StropError
            When the name is taken.
        """
        own = self._enter(name, inputs)
        try:
            subject = Subject(
                name,
                spec,
                own,
                payload=payload,
                conditions=self._conditions,
            )
        except ChildError as error:
            self._errors[name] = error
            return error
        self._living[name] = subject
        try:
            subject.load()
            subject.warm(self._warmup)
        except ChildError as error:
            return self._lose(name, error)
        return None

    def feed(self, name: str, new_name: str, inputs: Inputs) -> ChildError | None:
        """Go on with a living session under a new name and on another batch, warmed for it.

        What was timed of it under the old name is kept. The error where the session refuses the
        batch, which ends it.

        Raises
        ------
        StropError
            When the new name is taken, or no living session has the old one.
        """
        if name not in self._living:
            raise StropError(f"the arena holds no living session called '{name}'")
        own = self._enter(new_name, inputs)
        subject = self._living[new_name] = self._living.pop(name)
        try:
            subject.feed(own)
            subject.warm(self._warmup)
        except ChildError as error:
            return self._lose(new_name, error)
        return None

    def round(self) -> dict[str, float | ChildError]:
        """Give each living session one slot, in random order.

        Returns
        -------
        dict
            Seconds of a call by name (the median, or the time between calls that end where they
            run at once; for as many examples as the arena's batch holds), or the error of those
            that this round lost.
        """
        names = list(self._living)
        self._order.shuffle(names)
        result: dict[str, float | ChildError] = {}
        timed: dict[str, Sample] = {}
        for name in names:
            try:
                timed[name] = self._living[name].sample(self._seconds)
                result[name] = timed[name].figure * self._scales[name]
            except ChildError as error:
                if lost := self._lose(name, error):
                    result[name] = lost
        self._rounds.append(timed)
        return result

    def drop(self, name: str) -> None:
        """End a session; what was timed of it is kept. Of one that is gone, nothing is left to do.

        Raises
        ------
        StropError
            When no session of that name was ever added.
        """
        if name not in self._errors:
            raise StropError(f"the arena holds no session called '{name}'")
        if name in self._living:
            self._living.pop(name).close()

    def timings(self) -> dict[str, ScreenTiming]:
        """What all rounds so far say of every session, in the order in which they were added."""
        if not self._errors:
            return {}
        first = next(iter(self._errors))
        return {
            name: _timing(self._rounds, self._scales, first, name, error)
            for name, error in self._errors.items()
        }

    def memory_of(self, name: str) -> int | None:
        """Peak bytes of a living session's whole process; None where it has ended."""
        subject = self._living.get(name)
        try:
            return subject.peak_rss() if subject else None
        except ChildError:
            return None

    @property
    def names(self) -> tuple[str, ...]:
        """The living."""
        return tuple(self._living)

    @property
    def full(self) -> bool:
        """Whether one more, as large as the largest so far, would be too many for the memory."""
        sizes = [_rss(subject) for subject in self._living.values()]
        return bool(sizes) and sum(sizes) + max(sizes) > self._memory

    def close(self) -> None:
        """End every session; may be called again."""
        while self._living:
            self._living.popitem()[1].close()

    def __enter__(self) -> Arena:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _enter(self, name: str, inputs: Inputs | None) -> Inputs:
        """Take a new name down; the batch that it goes with."""
        if name in self._errors:
            raise StropError(f"the arena already holds a session called '{name}'")
        self._errors[name] = None
        own = self._inputs if inputs is None else inputs
        self._scales[name] = batch_size(self._inputs) / batch_size(own)
        return own

    def _lose(self, name: str, error: ChildError) -> ChildError | None:
        self._living.pop(name).close()
        if not _over(self._conditions.deadline):
            self._errors[name] = error
        return self._errors[name]


def screen(
    specs: Mapping[str, SessionSpec],
    inputs: Inputs,
    *,
    rounds: int = 5,
    seconds: float = 0.05,
    warmup_seconds: float = 3.0,
    payloads: Mapping[str, bytes] | None = None,
    most_alive: int = _MOST_ALIVE,
    memory: int | None = None,
    seed: int = 0,
    emit: Callable[[str], None] | None = None,
    conditions: Conditions = PLAIN,
) -> dict[str, ScreenTiming]:
    """Time several sessions in interleaved rounds; ratios are against the first.

    One launch each, so that the figures order candidates and no more. Where the memory, or
    `most_alive` processes, do not hold all of them, they come in batches, each beside a fresh
    process of the first. As the deadline nears, fewer sessions are started and fewer rounds made; a
    session that was never reached has no rounds and no error.

    Parameters
    ----------
    specs
        Sessions by name, the reference first.
    rounds
        Slots that each session gets.
    payloads
        Pickled modules by name, where an engine needs one.
    emit
        Takes a short line for the progress view for every session.
    inputs, seconds, warmup_seconds, memory, seed, conditions
        As :class:`Arena` takes them.
    """
    results = {name: ScreenTiming(np.array([]), float("nan")) for name in specs}
    first, *waiting = specs
    given = payloads or {}
    number, deadline = 0, conditions.deadline
    while number == 0 or (waiting and not _over(deadline)):
        # Half of the time left is for starting sessions, the other half for timing them.
        now = time.monotonic()
        half = None if deadline is None else (now + deadline) / 2
        with Arena(
            inputs,
            seconds=seconds,
            warmup_seconds=warmup_seconds,
            memory=memory,
            seed=seed + number,
            conditions=conditions,
        ) as arena:
            arena.add(first, specs[first], given.get(first))
            batch = [first]
            while waiting and not _over(half) and len(batch) < max(most_alive, 2):
                if len(batch) > 1 and arena.full:  # one at least, however large: else none ends
                    break
                name = waiting.pop(0)
                batch.append(name)
                if emit is not None:
                    emit(f"timing {name}")
                arena.add(name, specs[name], given.get(name))
            for _ in range(rounds):
                if _over(deadline):
                    break
                arena.round()
            timings = arena.timings()
        results.update({name: timings[name] for name in (batch if number == 0 else batch[1:])})
        number += 1
    return results


def _over(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline


def _timing(
    rounds: list[dict[str, Sample]],
    scales: Mapping[str, float],
    first: str,
    name: str,
    error: ChildError | None,
) -> ScreenTiming:
    own = [timed[name] for timed in rounds if name in timed]
    ratios = [
        timed[first].figure * scales[first] / (timed[name].figure * scales[name])
        for timed in rounds
        if first in timed and name in timed
    ]
    return ScreenTiming(
        rounds=np.array([sample.figure * scales[name] for sample in own]),
        ratio=float(np.median(ratios)) if ratios else float("nan"),
        error=error,
        calls=np.concatenate([sample.times for sample in own]) if own else np.array([]),
        used=tuple(sample.used for sample in own),
    )


def _rss(subject: Subject) -> int:
    try:
        return subject.rss()
    except ChildError:  # it died while it stood still: its next slot will tell
        return 0
