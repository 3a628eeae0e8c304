"""A request on its way through the core."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from strop.serve.errors import ServeError
from strop.serve.request import InferRequest, InferResponse

if TYPE_CHECKING:
    from strop.serve.batcher import Batcher

_log = logging.getLogger("strop.serve")

Done = Callable[["InferResponse | ServeError"], None]

Submit = Callable[["InferRequest", Done], "Ticket"]

QUEUED, RUNNING, ANSWERED = 0, 1, 2


class Ticket:
    """What `Core.submit` gives back: holds the request until it is answered.

    Attributes
    ----------
    request, done
        As they were submitted.
    rows, key, priority
        Rows of its inputs, the bucket it may share a batch in, and its level (1 goes first).
    deadline
        When it is to be answered: the client's own or the service-level objective's, whichever is
        earlier; infinite where there is neither.
    due
        What the queue is ordered by.
    state
        ``QUEUED``; ``RUNNING``, which is everything between the queue and the answer; or
        ``ANSWERED``, as a cancelled request is, too.
    taken
        Whether it had been taken before it came to the queue, and so is not turned away there
        because the model is being unloaded.
    """

    __slots__ = (
        "batcher",
        "deadline",
        "done",
        "due",
        "flight",
        "key",
        "predicted",
        "priority",
        "request",
        "rows",
        "size",
        "state",
        "taken",
    )

    def __init__(self, batcher: Batcher | None, request: InferRequest, done: Done) -> None:
        self.batcher = batcher
        self.request = request
        self.done = done
        self.rows = 1
        self.size = 0
        self.key: Hashable = None
        self.priority = 1
        self.deadline = self.due = math.inf
        self.predicted = 0.0
        self.flight: bytes | None = None
        self.state = QUEUED
        self.taken = False

    def cancel(self) -> None:
        """Take the request back: `done` will not be called any more. Harmless afterwards.

        What waits is not computed; what runs is computed and dropped, as an engine cannot be
        stopped in the middle of a batch.
        """
        if self.state != ANSWERED and self.batcher is not None:
            self.batcher.cancel(self)


def nobody(result: InferResponse | ServeError) -> None:
    """The `done` of a ticket that was answered or cancelled; lets go of the front's objects."""


def deliver(done: Done, result: InferResponse | ServeError) -> None:
    """Hand over a result; a front that cannot take it must not harm the others in the batch."""
    try:
        done(result)
    except Exception:
        _log.exception("a front failed to take an answer")
