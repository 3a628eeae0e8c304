"""The workers of one model: who is idle, when one will be, and what happens when one hangs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from strop.engines import Session
from strop.serve.answers import RunningBatch
from strop.serve.instance import Batch, InlineInstance, Instance, ThreadInstance
from strop.serve.model import ServedModel
from strop.serve.ticket import Ticket

_log = logging.getLogger("strop.serve")


class Pool:
    """Workers that are given batches and give them back to `completed`.

    A worker on a thread has room for two batches, the running one and the next, so that it never
    waits for the event loop to bring more; one on the loop's own thread has room for one.

    Attributes
    ----------
    idle
        Workers with nothing to do.
    room
        Batches that can be given away now.
    running_rows
        Rows in all batches given away and not completed.
    """

    def __init__(
        self,
        model: ServedModel,
        loop: asyncio.AbstractEventLoop,
        completed: Callable[[RunningBatch], None],
    ) -> None:
        self._model = model
        self._loop = loop
        self._report = completed
        self.running_rows = 0
        self.idle = self.room = 0
        self._settle()

    @property
    def alive(self) -> bool:
        """Whether any worker can compute."""
        return any(not instance.failed for instance in self._instances)

    @property
    def batches(self) -> list[RunningBatch]:
        """All that was given away and is not completed."""
        return [
            batch
            for instance in self._instances
            for batch in instance.batches
            if isinstance(batch, RunningBatch)
        ]

    def start(self, tickets: list[Ticket], now: float) -> None:
        """Give a batch to the worker with the least to do; there has to be `room`."""
        if self._inline and not self._model.inline:
            self._settle()  # an earlier batch was too slow for the loop's thread
        instance = min(self._instances, key=_load)
        batch = RunningBatch(tickets)
        self.running_rows += batch.total
        self.room -= 1
        if not instance.batches:
            self.idle -= 1
        begin = instance.free_at if instance.batches and instance.free_at > now else now
        instance.free_at = begin + self._seconds(batch)
        instance.start(batch)

    def starts_at(self, now: float) -> float:
        """When a batch given away now would begin."""
        return now if self.idle else max(now, min(self._instances, key=_load).free_at)

    def free_at(self, now: float) -> float:
        """When the first worker is expected to have nothing to do.

        One that is overdue is given as long again as it is late already: what is known of a batch
        that takes longer than it should is only that.
        """
        if self.idle:
            return now
        first = min([instance.free_at for instance in self._instances])
        return first if first > now else now + (now - first)

    def give_up(self, now: float) -> tuple[list[Ticket], list[Ticket]]:
        """Replace the workers that hang.

        Returns
        -------
        The tickets of the batches that hang, and those of batches that had not begun.
        """
        hung: list[Ticket] = []
        unbegun: list[Ticket] = []
        limit = self._model.settings.hang_seconds
        for instance in [it for it in self._instances if it.batches]:
            first = instance.batches[0]
            overdue = first.started and not first.ended and now - first.started > limit
            if not instance.failed and not overdue:
                continue
            instance.abandoned = True
            instance.stop()
            self._instances.remove(instance)
            for batch in instance.batches:
                assert isinstance(batch, RunningBatch)
                self.running_rows -= batch.total
                (hung if batch is first and overdue else unbegun).extend(batch.tickets)
            instance.batches = []
            if not instance.failed:
                _log.error("a batch of '%s' hangs: its worker is replaced", self._model.name)
                # A session of its own: the call that hangs may hold what the old one shares.
                self._instances.append(self._instance(None))
        if hung or unbegun:
            self._count()
        return hung, unbegun

    def abandon(self) -> list[Ticket]:
        """Forget everything that runs; its tickets."""
        tickets = [ticket for batch in self.batches for ticket in batch.tickets]
        for instance in self._instances:
            if instance.batches:
                instance.abandoned = True
                instance.batches = []
        self.running_rows = 0
        return tickets

    def stop(self) -> list[Instance]:
        """Let the workers go; those to join, on another thread, before the model is closed."""
        for instance in self._instances:
            instance.stop()
        return [instance for instance in self._instances if not instance.abandoned]

    def _completed(self, instance: Instance, batch: Batch) -> None:
        if instance.abandoned:
            return
        assert isinstance(batch, RunningBatch)
        instance.batches.remove(batch)
        self.room += 1
        self.running_rows -= batch.total
        if instance.batches:
            # The next began when this one ended: guesses built on guesses would drift away.
            instance.free_at = batch.ended + self._seconds(instance.batches[0])
        else:
            self.idle += 1
            instance.free_at = 0.0
        self._report(batch)

    def _seconds(self, batch: Batch) -> float:
        return self._model.curve.p50(min(batch.total, self._model.limit))

    def _settle(self) -> None:
        """Have workers where the model may run; what was inline has nothing left to do."""
        model = self._model
        self._inline = model.inline
        self._ahead = 1 if model.inline else 2
        self._instances = [self._instance(model.session) for _ in range(model.workers)]
        self._count()

    def _instance(self, session: Session | None) -> Instance:
        kind = InlineInstance if self._model.inline else ThreadInstance
        return kind(self._model, self._loop, self._completed, session)

    def _count(self) -> None:
        self.idle = sum(not instance.batches for instance in self._instances)
        self.room = sum(self._ahead - len(instance.batches) for instance in self._instances)


def _load(instance: Instance) -> int:
    return len(instance.batches)
