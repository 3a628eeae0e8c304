"""What has waited or run for too long, found by looking for it now and then."""

from __future__ import annotations

from strop.serve.answers import Answers
from strop.serve.errors import DeadlineExceeded, ModelHung
from strop.serve.flights import Flights
from strop.serve.lanes import Lanes
from strop.serve.model import ServedModel
from strop.serve.pool import Pool
from strop.serve.ticket import ANSWERED, QUEUED, RUNNING


class Lookout:
    """Ends requests whose own timeout has passed, and gives up workers that hang.

    Instead of a timer for every request, of which nearly none would ever go off.
    """

    def __init__(
        self,
        model: ServedModel,
        lanes: Lanes,
        pool: Pool,
        answers: Answers,
        flights: Flights | None,
    ) -> None:
        self._model = model
        self._lanes = lanes
        self._pool = pool
        self._answers = answers
        self._flights = flights

    def look(self, now: float) -> None:
        """Answer what is overdue; what a worker that hangs had not begun waits again."""
        self._time_out(now)
        self._replace(now)

    def _time_out(self, now: float) -> None:
        for ticket in self._lanes.expired(now):
            self._answers.fail(
                ticket, DeadlineExceeded("the request's timeout passed in the queue")
            )
        late = [] if self._flights is None else self._flights.expired(now)
        for batch in self._pool.batches:
            for ticket in batch.tickets:
                own = ticket.request.deadline
                if own is not None and own < now and ticket.state == RUNNING:
                    late.append(ticket)
        for ticket in late:
            self._answers.fail(ticket, DeadlineExceeded("the request's timeout passed"))

    def _replace(self, now: float) -> None:
        hung, unbegun = self._pool.give_up(now)
        for ticket in unbegun:
            if ticket.state != ANSWERED:
                ticket.state = QUEUED
                self._lanes.enter(ticket)
        limit = self._model.settings.hang_seconds
        for ticket in hung:
            self._answers.fail(
                ticket, ModelHung(f"'{self._model.name}' did not answer within {limit:g} s")
            )
