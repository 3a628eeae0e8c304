"""The queue: requests that may share a batch stand in one lane, those due first in front."""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Hashable

from strop.serve.ticket import QUEUED, RUNNING, Ticket


class Lane:
    """Requests of one priority and one bucket, ordered by when they are due.

    Cancelled ones stay where they are until they are passed; `rows` counts the others.
    """

    __slots__ = ("key", "priority", "rows", "tickets")

    def __init__(self, priority: int, key: Hashable) -> None:
        self.priority = priority
        self.key = key
        self.rows = 0
        self.tickets: deque[Ticket] = deque()

    def head(self) -> Ticket:
        """The first that still waits; there is one while `rows` is above 0."""
        tickets = self.tickets
        while tickets[0].state != QUEUED:
            tickets.popleft()
        return tickets[0]

    def enter(self, ticket: Ticket) -> None:
        """Line up; at the end, unless it is due earlier than the last."""
        tickets = self.tickets
        if tickets and ticket.due < tickets[-1].due:
            insort(tickets, ticket, key=_due)
        else:
            tickets.append(ticket)
        self.rows += ticket.rows


class Lanes:
    """All lanes of one model.

    Attributes
    ----------
    requests, rows, bytes
        What waits in all of them.
    """

    __slots__ = ("_lanes", "bytes", "requests", "rows")

    def __init__(self) -> None:
        self.requests = self.rows = self.bytes = 0
        self._lanes: dict[tuple[int, Hashable], Lane] = {}

    def enter(self, ticket: Ticket) -> None:
        """Let a ticket wait."""
        name = (ticket.priority, ticket.key)
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = Lane(ticket.priority, ticket.key)
        lane.enter(ticket)
        self.requests += 1
        self.rows += ticket.rows
        self.bytes += ticket.size

    def leave(self, ticket: Ticket) -> None:
        """A waiting ticket does not wait any more; the caller changes its state."""
        lane = self._lanes[ticket.priority, ticket.key]
        lane.rows -= ticket.rows
        self._count_out(ticket)
        if not lane.rows:
            del self._lanes[ticket.priority, ticket.key]
        elif len(lane.tickets) > 64 and 4 * lane.rows < len(lane.tickets):
            # Cancelled ones in the middle would hold their inputs until they are passed.
            lane.tickets = deque(it for it in lane.tickets if it.state == QUEUED and it != ticket)

    def first(self) -> Lane:
        """The lane to serve: the most urgent level, and in it the head that is due first."""
        lanes = self._lanes
        if len(lanes) == 1:
            return next(iter(lanes.values()))
        return min(lanes.values(), key=_urgency)

    def rows_ahead(self, priority: int) -> int:
        """Rows that go before a new request of this level."""
        lanes = self._lanes
        if len(lanes) <= 1:
            for lane in lanes.values():
                return lane.rows if lane.priority <= priority else 0
        return sum([lane.rows for lane in lanes.values() if lane.priority <= priority])

    def take(
        self, lane: Lane, rows: int, now: float, doomed: float = -math.inf
    ) -> tuple[list[Ticket], list[Ticket]]:
        """Tickets of up to `rows` rows from the front, at least one; and those given up.

        Given up are those whose own timeout has passed, and those due before `doomed`. Both are
        `RUNNING` from here on: answering one of them may make a front cancel another, which must
        not leave the queue twice.
        """
        taken: list[Ticket] = []
        expired: list[Ticket] = []
        tickets = lane.tickets
        left = rows
        while tickets:
            ticket = tickets[0]
            if ticket.state == QUEUED:
                ticket.state = RUNNING
                own = ticket.request.deadline
                if ticket.deadline < doomed or (own is not None and own < now):
                    expired.append(ticket)
                elif taken and ticket.rows > left:
                    ticket.state = QUEUED
                    break
                else:
                    taken.append(ticket)
                    left -= ticket.rows
                lane.rows -= ticket.rows
                self._count_out(ticket)
            tickets.popleft()
            if left <= 0:
                break
        if not lane.rows:
            del self._lanes[lane.priority, lane.key]
        return taken, expired

    def expired(self, now: float) -> list[Ticket]:
        """All whose own timeout has passed, taken out as by `take`."""
        late = [
            ticket
            for lane in self._lanes.values()
            for ticket in lane.tickets
            if ticket.state == QUEUED
            and ticket.request.deadline is not None
            and ticket.request.deadline < now
        ]
        for ticket in late:
            self.leave(ticket)
            ticket.state = RUNNING
        return late

    def clear(self) -> list[Ticket]:
        """Take everything out, as by `take`."""
        waiting = [it for lane in self._lanes.values() for it in lane.tickets if it.state == QUEUED]
        for ticket in waiting:
            ticket.state = RUNNING
        self._lanes.clear()
        self.requests = self.rows = self.bytes = 0
        return waiting

    def _count_out(self, ticket: Ticket) -> None:
        self.requests -= 1
        self.rows -= ticket.rows
        self.bytes -= ticket.size


def _due(ticket: Ticket) -> float:
    return ticket.due


def _urgency(lane: Lane) -> tuple[int, float]:
    return lane.priority, lane.head().due
