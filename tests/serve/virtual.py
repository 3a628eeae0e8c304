"""A server of one core under more load than it can take, in a time that only the test lets pass.

The batcher, its policy, admission and pool are the real ones; virtual are the clock, the worker and
the event loop's front: it looks at its sockets, pays for every refusal and every answer with time
that the worker on the same core loses, and rests for a millisecond where it refused anything.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest

from strop.serve.batcher import Batcher
from strop.serve.instance import Batch, Instance
from strop.serve.request import InferRequest, InferResponse

from .fakes import WIDTH, Doubling, round_over, served

REST = 0.001
"""Seconds for which the front leaves its sockets alone after refusals; see `strop.serve.lull`."""


class Clock:
    """Stands where `time` does in the modules of the core."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Worker(Instance):
    """As one on a thread: goes on with what it has by itself, and is heard of when one listens."""

    clock: Clock
    due = 0.0

    def start(self, batch: Batch) -> None:
        self.batches.append(batch)
        if self._busy == 1:
            self._begin(batch, self.clock.now)

    def work(self, until: float) -> None:
        """Compute up to a moment."""
        while self._busy and self.due <= until:
            self._ended.append(self.batches[len(self._ended)])
            if self._busy:
                self._begin(self.batches[len(self._ended)], self.due)

    def give_way(self, seconds: float) -> None:
        """Something else has the core for so long."""
        if self._busy:
            self.due += seconds
            self.batches[len(self._ended)].ended += seconds

    def report(self) -> None:
        """Have the loop hear what has ended."""
        while self._ended:
            batch = self._ended.popleft()
            self._completed(self, batch)

    @property
    def _ended(self) -> deque[Batch]:
        return self.__dict__.setdefault("ended", deque())

    @property
    def _busy(self) -> int:
        return len(self.batches) - len(self._ended)

    @property
    def busy(self) -> bool:
        return self._busy > 0

    def _begin(self, batch: Batch, at: float) -> None:
        now, self.clock.now = self.clock.now, at
        batch.compute(self.model, self._session, self._buffers)
        self.due, self.clock.now = self.clock.now, now


class Timed(Doubling):
    """A batch of n rows takes ``seconds(n)``."""

    def __init__(self, clock: Clock, seconds: Callable[[int], float]) -> None:
        super().__init__()
        self._clock, self._seconds = clock, seconds

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self._clock.now += self._seconds(len(arrays["x"]))
        return super().run(arrays)


class Loop:
    """An event loop whose timers go by the clock of the test."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._timers: list[tuple[float, asyncio.Handle]] = []
        self.call_soon = asyncio.get_running_loop().call_soon

    def call_later(self, delay: float, call: Callable[..., object], *args: object) -> Any:
        handle = asyncio.Handle(call, args, asyncio.get_running_loop())
        self._timers.append((self._clock.now + delay, handle))
        return handle

    def ring(self) -> None:
        """Call what is due."""
        due = [it for it in self._timers if it[0] <= self._clock.now]
        self._timers = [it for it in self._timers if it[0] > self._clock.now]
        for _, handle in due:
            if not handle.cancelled():
                handle._run()


@dataclass(frozen=True)
class Found:
    """What came of it: from the socket to the answer, and for how long that was looked at."""

    latencies: np.ndarray
    seconds: float

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds


def flood(
    monkeypatch: pytest.MonkeyPatch,
    *,
    taking: Callable[[int], float],
    disturbed: Callable[[np.random.Generator], float],
    warm: Callable[[int], list[float]],
    slo: float,
    rate: float,
    seconds: float,
    refusal: float,
    answer: float,
    late: Callable[[np.random.Generator], float],
    settle: float,
) -> Found:
    """Requests of one row at random (Poisson), whatever becomes of those before them.

    Parameters
    ----------
    taking, disturbed
        What a batch of n rows takes, and the factor by which it does so this time.
    warm
        What warm-up saw of a size.
    refusal, answer
        Seconds of the core.
    late
        How much later than asked the front gets the core back after a rest.
    settle
        Seconds at the beginning that do not count.
    """
    clock = Clock()
    random = np.random.default_rng(0)
    for module in ("batcher", "answers", "instance"):
        monkeypatch.setattr(f"strop.serve.{module}.time", clock)
    monkeypatch.setattr("strop.serve.pool.ThreadInstance", Worker)
    monkeypatch.setattr(Worker, "clock", clock, raising=False)
    session = Timed(clock, lambda rows: taking(rows) * disturbed(random))

    async def scenario() -> Found:
        model = served(session, max_batch=32, slo=slo)
        for size in model.curve.sizes:
            for value in warm(size):
                model.curve.observe(size, value)
        loop = Loop(clock)
        batcher = Batcher(model, cast(asyncio.AbstractEventLoop, loop))
        (worker,) = batcher._pool._instances
        assert isinstance(worker, Worker)
        inputs = {"x": np.zeros((1, WIDTH), np.float32)}
        latencies: list[float] = []
        begin = clock.now
        refused = 0
        arrivals = begin + np.cumsum(random.exponential(1 / rate, int(rate * seconds * 1.2)))
        number = 0

        def spend(cost: float) -> None:
            clock.now += cost
            worker.give_way(cost)

        def done(result: object, arrived: float) -> None:
            nonlocal refused
            if isinstance(result, InferResponse):
                spend(answer)
                if arrived >= begin + settle:
                    latencies.append(clock.now - arrived)
            else:
                spend(refusal)
                refused += 1

        while clock.now < begin + seconds:
            looked, before = clock.now, refused
            loop.ring()
            worker.report()
            await round_over()
            while arrivals[number] <= looked:
                arrived = float(arrivals[number])
                number += 1
                if clock.now < batcher.refusing_until:
                    refused += 1
                    spend(refusal)
                else:
                    batcher.submit(
                        InferRequest("fake", inputs), functools.partial(done, arrived=arrived)
                    )
            await round_over()
            if refused > before:
                wake = clock.now + REST
                if worker.busy:
                    # With nothing else to do it leaves the core to the loop.
                    wake = min(wake + late(random), max(worker.due, clock.now))
                worker.work(wake)
                clock.now = wake
                batcher.admission.unread(looked, wake)
            else:
                wake = max(float(arrivals[number]), clock.now)
                if worker.busy:
                    wake = min(wake, max(worker.due, clock.now))
                worker.work(wake)
                clock.now = wake
        batcher.stop()
        return Found(np.array(latencies), clock.now - begin - settle)

    return asyncio.run(scenario())
