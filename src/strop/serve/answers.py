"""From a computed batch to each request's own answer, counted on the way."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from strop.serve.errors import ServeError
from strop.serve.instance import Batch
from strop.serve.model import ServedModel
from strop.serve.request import InferRequest, InferResponse, Timings
from strop.serve.ticket import ANSWERED, RUNNING, Ticket, deliver, nobody

Outputs = dict[str, np.ndarray]
Landed = Callable[[Ticket, "InferResponse | ServeError"], None]


class RunningBatch(Batch):
    """A batch, and the tickets whose requests it holds."""

    __slots__ = ("tickets",)

    def __init__(self, tickets: list[Ticket]) -> None:
        super().__init__(
            [ticket.request.inputs for ticket in tickets], [ticket.rows for ticket in tickets]
        )
        self.tickets = tickets
        self.wanted = lambda index: tickets[index].state != ANSWERED


class Answers:
    """Answers the tickets of one model.

    Parameters
    ----------
    landed
        Called with a ticket that others wait for (`Ticket.flight`) and its result.
    """

    def __init__(self, model: ServedModel, landed: Landed) -> None:
        self._model = model
        self._statistics = model.statistics
        self._landed = landed
        self._slo = model.settings.slo
        self._cuts = model.buckets.cuts

    def give(self, ticket: Ticket, result: InferResponse | ServeError) -> None:
        """Answer one ticket; `result` is not counted."""
        done = ticket.done
        ticket.state = ANSWERED
        ticket.done = nobody
        if ticket.flight is not None:
            self._landed(ticket, result)
        deliver(done, result)

    def fail(self, ticket: Ticket, error: ServeError) -> None:
        """Answer a ticket, unless it is answered already, with an error."""
        if ticket.state != ANSWERED:
            self._statistics.refuse(error.reason)
            self._statistics.fail.add(1, time.monotonic() - ticket.request.arrived)
            self.give(ticket, error)

    def batch(self, batch: RunningBatch) -> None:
        """Answer all tickets of a batch that was computed; those answered already are passed."""
        if batch.outputs is not None:
            self._together(batch, batch.outputs)
            return
        results = zip(batch.tickets, batch.alone, batch.seconds, strict=True)
        for ticket, result, seconds in results:
            if result is None or ticket.state == ANSWERED:
                continue
            if isinstance(result, ServeError):
                self.fail(ticket, result)
            else:
                self._alone(ticket, batch, result, seconds)

    def kept(
        self, request: InferRequest, outputs: Outputs, started: float, ended: float
    ) -> InferResponse:
        """A response with outputs that were computed for an equal request; counted."""
        self.count(request.arrived, min(started, ended), ended)
        timings = Timings(request.arrived, started, ended, 0)
        return InferResponse(self._model.name, self._model.version, outputs, request.id, timings)

    def count(self, arrived: float, started: float, ended: float) -> None:
        """Count a request that got its outputs."""
        statistics = self._statistics
        queue, total = max(started - arrived, 0.0), ended - arrived
        statistics.queue.add(1, queue)
        statistics.success.add(1, total)
        statistics.queue_seconds.observe(queue)
        statistics.total_seconds.observe(total)
        if self._slo is not None and total > self._slo:
            statistics.late += 1

    def _together(self, batch: RunningBatch, outputs: Outputs) -> None:
        """Each request its rows: views, nothing is copied."""
        model, statistics, tickets = self._model, self._statistics, batch.tickets
        name, version = model.name, model.version
        started, ended, total = batch.started, batch.ended, batch.total
        now = time.monotonic()
        size = statistics.batch(
            total, len(tickets), batch.gathered - started, ended - batch.gathered
        )
        whole = len(tickets) == 1
        offset = 0
        for ticket in tickets:
            end = offset + ticket.rows
            if ticket.state == RUNNING:
                request = ticket.request
                if whole:
                    own = outputs
                else:
                    own = {key: array[offset:end] for key, array in outputs.items()}
                if self._cuts:
                    own = model.buckets.own(own, request.inputs)
                if request.outputs is not None:
                    own = {key: own[key] for key in request.outputs}
                self.count(request.arrived, started, now)
                statistics.inferences += ticket.rows
                timings = Timings(request.arrived, started, ended, total)
                self.give(ticket, InferResponse(name, version, own, request.id, timings))
            offset = end
        scatter = time.monotonic() - now
        statistics.scatter.add(len(tickets), scatter)
        size.scatter.add(1, scatter)

    def _alone(self, ticket: Ticket, batch: RunningBatch, outputs: Outputs, seconds: float) -> None:
        """A request that was run again by itself, because its batch failed."""
        model, request = self._model, ticket.request
        if self._cuts:
            outputs = model.buckets.own(outputs, request.inputs)
        if request.outputs is not None:
            outputs = {key: outputs[key] for key in request.outputs}
        self.count(request.arrived, batch.started, batch.ended)
        self._statistics.inferences += ticket.rows
        self._statistics.batch(ticket.rows, 1, 0.0, seconds)
        timings = Timings(request.arrived, batch.started, batch.ended, ticket.rows)
        self.give(ticket, InferResponse(model.name, model.version, outputs, request.id, timings))
