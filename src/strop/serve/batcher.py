"""The queue of one model: requests in, batches to workers, answers out.

Everything here runs on the event loop's thread, so nothing is locked. A request costs one object,
one entry of a deque and one call; timers and futures are for batches and for what goes wrong.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time

from strop.serve.admission import Admission
from strop.serve.answers import Answers, RunningBatch
from strop.serve.cache import ResponseCache
from strop.serve.errors import (
    DeadlineExceeded,
    Overloaded,
    ServeError,
    Unavailable,
    too_busy,
)
from strop.serve.express import Express
from strop.serve.flights import Flights
from strop.serve.instance import Instance
from strop.serve.lanes import Lanes
from strop.serve.lookout import Lookout
from strop.serve.model import ServedModel
from strop.serve.policy import QueueView, policy_for
from strop.serve.pool import Pool
from strop.serve.request import InferRequest, InferResponse
from strop.serve.ticket import ANSWERED, QUEUED, Done, Ticket, nobody

_PATIENCE = 1.0
"""Seconds after which a request without a deadline is due, for its place in the queue."""
_TICK = 0.05
"""Seconds between looks for expired requests and hanging workers, while there is work."""


class Batcher:
    """Puts a loaded model to work; made on the event loop's thread, once the model is warm.

    Attributes
    ----------
    model
        What it serves.
    cache
        The response cache, None where it is off.
    express
        The lane of small plain requests, None where the model has none.
    closing
        Whether new requests are refused because the model is being unloaded.
    refusing_until
        Every request that arrives before, names no priority and has no answer in a cache would be
        refused as too late, as things stand: whatever could let one in takes it back. In
        `time.monotonic()` seconds.
    """

    def __init__(self, model: ServedModel, loop: asyncio.AbstractEventLoop) -> None:
        self.model = model
        self.policy = policy_for(model.settings)
        self.admission = Admission(model.curve, model.workers, model.settings.slo or math.inf)
        self._answers = Answers(model, self._landed)
        limit = model.settings.cache_bytes
        self.cache = ResponseCache(limit) if limit else None
        self._flights = (
            Flights(self.cache, self._answers, model.statistics, self._enter)
            if self.cache is not None
            else None
        )
        self.lanes = Lanes()
        self.express = (
            Express(
                model,
                self.policy,
                loop,
                self.lanes,
                functools.partial(self.submit, taken=True),
                self._if_drained,
            )
            if Express.suits(model)
            else None
        )
        self.closing = False
        self.refusing_until = -math.inf
        self._loop = loop
        self._pool = Pool(model, loop, self._completed)
        self._lookout = Lookout(model, self.lanes, self._pool, self._answers, self._flights)
        self._scheduled = False
        self._wake: asyncio.TimerHandle | None = None
        self._wake_at = math.inf
        self._tick_handle: asyncio.TimerHandle | None = None
        self._drained: asyncio.Future[None] | None = None
        self._shared = model.batching.allowed
        self._slo = model.settings.slo
        self._level = model.settings.default_priority

    @property
    def ready(self) -> bool:
        """Whether requests are taken and some worker can compute them."""
        return not self.closing and self._pool.alive

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return self.lanes.requests + self._express_rows

    @property
    def running_rows(self) -> int:
        """Rows that workers have."""
        return self._pool.running_rows

    @property
    def busy(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self.queued or self._pool.running_rows)

    def submit(self, request: InferRequest, done: Done, *, taken: bool = False) -> Ticket:
        """Take a request, or refuse it at once by calling `done` with the reason.

        Parameters
        ----------
        taken
            The express lane took it already: that the model is being unloaded is no reason.
        """
        now = time.monotonic()
        if not request.arrived:
            request.arrived = now
        if self.express is not None and self.express.waiting and not self.closing:
            # One queue, one order, one limit: there is no lane beside a queue.
            self.express.hand_over()
        ticket = Ticket(self, request, done)
        ticket.taken = taken
        try:
            ticket.rows = self.model.check(request)
            if self._flights is None or not self._flights.board(ticket, now):
                self._enter(ticket, now)
        except ServeError as error:
            error.__traceback__ = None  # its frames would keep the request's arrays alive
            self.model.statistics.refuse(error.reason)
            self._answers.give(ticket, error)
        return ticket

    def refusal(self) -> ServeError | None:
        """Why a request of one row would be refused now; None when it would not be.

        For fronts to ask before they read and decode a body.
        """
        now = time.monotonic()
        try:
            self._check_open()
            self._admit(1, 0, self._level, math.inf if self._slo is None else now + self._slo, now)
        except ServeError as error:
            error.__traceback__ = None
            self.model.statistics.refuse(error.reason)
            return error
        return None

    def cancel(self, ticket: Ticket) -> None:
        """As `Ticket.cancel`."""
        self.model.statistics.cancelled += 1
        if self._flights is not None and self._flights.leave(ticket):
            return
        self.refusing_until = -math.inf
        if ticket.state == QUEUED:
            self.lanes.leave(ticket)
            # It may stay in its lane until it is passed, but its inputs may be megabytes.
            ticket.request = InferRequest(ticket.request.model, {})
        ticket.state = ANSWERED
        ticket.done = nobody
        self._if_drained()

    async def drain(self) -> None:
        """Refuse what comes from now on, and wait until everything taken is answered."""
        self.closing = True
        self.refusing_until = -math.inf
        if self.express is not None:
            self.express.closed = True
        if self.busy:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

    def abort(self, error: ServeError) -> None:
        """Answer everything that waits or runs with an error, at once."""
        self.closing = True
        self.refusing_until = -math.inf
        if self.express is not None:
            self.express.abort(error)
        tickets = self.lanes.clear() + self._pool.abandon()
        for ticket in tickets:
            self._answers.fail(ticket, error)
        self._if_drained()

    def stop(self) -> list[Instance]:
        """Let the workers go; the instances to join on another thread, before `model.close`."""
        for handle in (self._wake, self._tick_handle):
            if handle is not None:
                handle.cancel()
        return self._pool.stop()

    @property
    def _express_rows(self) -> int:
        return 0 if self.express is None else len(self.express.waiting)

    # -- in ----------------------------------------------------------------------------------

    def _enter(self, ticket: Ticket, now: float) -> None:
        if not ticket.taken:
            self._check_open()
        request = ticket.request
        deadline = math.inf if request.deadline is None else request.deadline
        if self._slo is not None:
            deadline = min(deadline, self.admission.reached(now) + self._slo)
        level = request.priority or self._level
        size = 0
        for array in request.inputs.values():
            size += array.nbytes
        ticket.predicted = self._admit(ticket.rows, size, level, deadline, now)
        ticket.deadline = deadline
        ticket.due = deadline if deadline < math.inf else request.arrived + _PATIENCE
        ticket.priority = level
        ticket.size = size
        if self._shared:
            ticket.key = self.model.buckets.key(request.inputs)
        self.lanes.enter(ticket)
        if not self._scheduled and self._pool.room:
            # At the end of this round of the loop: requests that other sockets deliver in the
            # same round join the batch, and nothing has waited for a clock.
            self._scheduled = True
            self._loop.call_soon(self._dispatch)
        if self._tick_handle is None:
            self._tick_handle = self._loop.call_later(_TICK, self._tick)

    def _admit(self, rows: int, size: int, level: int, deadline: float, now: float) -> float:
        """When a request would be answered, in seconds; 0.0 where nobody needs to know.

        Raises
        ------
        ServeError
            When it would be too late, or there is no room.
        """
        lanes = self.lanes
        settings = self.model.settings
        if lanes.requests >= settings.max_queue or (
            lanes.requests and lanes.bytes + size > settings.max_queue_bytes
        ):
            wait = self.admission.drain_seconds(lanes.rows)
            raise Overloaded(
                f"the queue of '{self.model.name}' is full", retry_after=max(wait, 0.001)
            )
        if not lanes.requests and self._pool.idle:
            # Nothing is ahead: waiting could not help, and its answer keeps the curve true.
            if deadline <= now:
                raise DeadlineExceeded("the request's timeout had passed when it arrived")
            return self.admission.completion(now, now, 0, rows) if deadline < math.inf else 0.0
        if deadline == math.inf:
            return 0.0
        ahead = lanes.rows_ahead(level)
        completion = self.admission.completion(now, self._pool.free_at(now), ahead, rows)
        late = completion + self.admission.reserve
        if late > deadline:
            if deadline <= now:
                raise DeadlineExceeded("the request's timeout had passed when it arrived")
            if self._slo is not None and rows == 1 and level == self._level and self.cache is None:
                self.refusing_until = late - self._slo + now - self.admission.reached(now)
            raise too_busy(self.model.name, late - deadline)
        return completion

    def _check_open(self) -> None:
        if self.closing:
            raise Unavailable(f"the model '{self.model.name}' is being unloaded", retry_after=1.0)

    # -- through -----------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Give work to workers; at most one batch where they compute on this very thread."""
        self._scheduled = False
        lanes, pool, curve = self.lanes, self._pool, self.model.curve
        while lanes.requests and pool.room:
            now = time.monotonic()
            lane = lanes.first()
            head = lane.head()
            view = QueueView(
                lane.rows,
                head.request.arrived,
                head.deadline,
                lane.tickets[-1].deadline,
                pool.idle or 1,
            )
            rows, until = self.policy.choose(view, curve, now)
            if rows == 0:
                self._wake_up(until, now)
                return
            if not pool.idle and lane.rows < curve.limit and lane.rows < 2 * rows:
                # To a worker that is still busy goes only what would not grow any more if it
                # waited for the worker here.
                return
            tickets, lost = lanes.take(lane, rows, now, self._doomed(rows, now))
            self.refusing_until = -math.inf
            for ticket in lost:
                self._answers.fail(ticket, self._too_late(ticket, now))
            if tickets:
                pool.start(tickets, now)
                if self.model.inline:
                    # The loop reads sockets and sends answers between two batches.
                    if lanes.requests:
                        self._schedule()
                    return

    def _doomed(self, rows: int, now: float) -> float:
        """The deadline before which an answer would break the objective, whatever is done.

        What was let in on a prediction that did not hold is refused after all: to compute it would
        only make those behind it late as well (Gujarati et al., Clockwork, OSDI 2020). Half of the
        objective has to be spent waiting first, so that a model too slow for it still answers.
        """
        slo = self._slo
        if slo is None:
            return -math.inf
        return min(self._pool.starts_at(now) + self.model.curve.p99(rows), now + slo / 2)

    def _too_late(self, ticket: Ticket, now: float) -> ServeError:
        own = ticket.request.deadline
        if own is not None and own < now:
            return DeadlineExceeded("the request's timeout passed in the queue")
        return Overloaded(
            f"'{self.model.name}' could not answer in time",
            retry_after=max(self.admission.drain_seconds(self.lanes.rows), 0.001),
        )

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._dispatch)

    def _wake_up(self, until: float, now: float) -> None:
        """Dispatch again at `until`, which only policies that wait ask for."""
        if self._wake is not None:
            if self._wake_at <= until:
                return
            self._wake.cancel()
        self._wake_at = until
        self._wake = self._loop.call_later(max(until - now, 0.0), self._woken)

    def _woken(self) -> None:
        self._wake = None
        self._wake_at = math.inf
        self._dispatch()

    # -- out ---------------------------------------------------------------------------------

    def _completed(self, batch: RunningBatch) -> None:
        model, seen = self.model, time.monotonic()
        self.refusing_until = -math.inf
        if self.lanes.requests:
            if model.inline:
                self._schedule()
            else:
                self._dispatch()  # the worker goes on while the answers are given
        self._answers.batch(batch)
        if batch.outputs is not None:
            self._learn(batch, seen)
            model.curve.observe(min(batch.total, model.limit), batch.ended - batch.started)
        self._if_drained()

    def _learn(self, batch: RunningBatch, seen: float) -> None:
        """Of a batch's first, who waited longest, and last, who was told most, the worse counts."""
        first, last = batch.tickets[0], batch.tickets[-1]
        if first.predicted and last.predicted:
            # Who finds an idle worker is told of itself alone; that others join it is no error.
            least = first.request.arrived + self.model.curve.p50(min(batch.total, self.model.limit))
            predicted = min(max(first.predicted, least), last.predicted)
            self.admission.saw(seen - batch.ended)
            self.admission.learn(predicted, time.monotonic())

    def _landed(self, ticket: Ticket, result: InferResponse | ServeError) -> None:
        if self._flights is not None:
            self._flights.land(ticket, result)

    def _if_drained(self) -> None:
        if self._drained is not None and not self._drained.done() and not self.busy:
            self._drained.set_result(None)

    # -- what goes wrong ---------------------------------------------------------------------

    def _tick(self) -> None:
        self._tick_handle = None
        self.refusing_until = -math.inf
        self._lookout.look(time.monotonic())
        if self.lanes.requests:
            if self._pool.alive:
                self._schedule()
            else:
                self.abort(Unavailable(f"no worker of '{self.model.name}' is left"))
        self._if_drained()
        if self.busy:
            self._tick_handle = self._loop.call_later(_TICK, self._tick)
