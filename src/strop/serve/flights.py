"""Single flight: equal requests wait for one computation, whose answer the cache keeps."""

from __future__ import annotations

import time
from collections.abc import Callable

from strop.serve.answers import Answers
from strop.serve.cache import ResponseCache
from strop.serve.errors import ModelFailed, ServeError
from strop.serve.request import InferResponse
from strop.serve.statistics import ModelStatistics
from strop.serve.ticket import ANSWERED, QUEUED, RUNNING, Ticket, nobody


class Flights:
    """Stands before the queue of a model whose cache is on.

    The first of several equal requests is computed; the others wait for it (`Ticket.flight` is the
    key that they share). Each of them may be cancelled without harm to the rest.

    Parameters
    ----------
    enter
        Puts a ticket into the queue; raises ServeError where it is refused.
    """

    def __init__(
        self,
        cache: ResponseCache,
        answers: Answers,
        statistics: ModelStatistics,
        enter: Callable[[Ticket, float], None],
    ) -> None:
        self.cache = cache
        self._answers = answers
        self._statistics = statistics
        self._enter = enter
        self._waiting: dict[bytes, list[Ticket]] = {}

    def board(self, ticket: Ticket, now: float) -> bool:
        """Whether nothing is to be computed: it is answered, or waits for an equal request."""
        statistics = self._statistics
        key = self.cache.key(ticket.request)
        outputs = self.cache.get(key)
        if outputs is not None:
            ended = time.monotonic()
            statistics.cache_hit.add(1, ended - now)
            self._answers.give(ticket, self._answers.kept(ticket.request, outputs, now, ended))
            return True
        ticket.flight = key
        waiting = self._waiting.get(key)
        if waiting is not None:
            statistics.cache_shared += 1
            ticket.state = RUNNING
            waiting.append(ticket)
            return True
        statistics.cache_miss.add(1, time.monotonic() - now)
        self._waiting[key] = []
        return False

    def leave(self, ticket: Ticket) -> bool:
        """A ticket is cancelled; whether its place in the queue has to stay, for others."""
        key = ticket.flight
        if key is None or key not in self._waiting:
            return False
        waiting = self._waiting[key]
        if ticket in waiting:
            waiting.remove(ticket)
            ticket.flight = None
            ticket.state = ANSWERED
            return True
        if waiting:
            ticket.done = nobody
            return True
        del self._waiting[key]
        ticket.flight = None
        return False

    def expired(self, now: float) -> list[Ticket]:
        """All that wait for an equal request and whose own timeout has passed, taken out."""
        found: list[Ticket] = []
        for waiting in self._waiting.values():
            late = [it for it in waiting if (own := it.request.deadline) is not None and own < now]
            for ticket in late:
                waiting.remove(ticket)
                ticket.flight = None
            found += late
        return found

    def land(self, ticket: Ticket, result: InferResponse | ServeError) -> None:
        """The computation that others wait for is over."""
        assert ticket.flight is not None
        waiting = self._waiting.pop(ticket.flight, [])
        if isinstance(result, InferResponse):
            self.cache.put(ticket.flight, result.outputs)
        ticket.flight = None
        for waiter in waiting:
            waiter.flight = None
            if isinstance(result, InferResponse):
                ended = time.monotonic()
                started = result.timings.started
                answer = self._answers.kept(waiter.request, result.outputs, started, ended)
                self._answers.give(waiter, answer)
            elif isinstance(result, ModelFailed):
                self._answers.fail(waiter, result)  # the same question would fail the same way
            else:
                self._again(waiter)

    def _again(self, ticket: Ticket) -> None:
        """What the first did not live to see (its timeout, say) is computed for the next."""
        ticket.state = QUEUED
        now = time.monotonic()
        try:
            if not self.board(ticket, now):
                self._enter(ticket, now)
        except ServeError as error:
            self._answers.fail(ticket, error)
