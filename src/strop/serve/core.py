"""The one inference core behind all fronts."""

from __future__ import annotations

import asyncio
import logging

from strop.serve.errors import ServeError, Unavailable
from strop.serve.express import Express
from strop.serve.repository import Repository
from strop.serve.request import InferRequest, InferResponse
from strop.serve.ticket import ANSWERED, Done, Ticket, deliver

_log = logging.getLogger("strop.serve")


class Core:
    """Takes requests from fronts, gives back answers. One event loop, one thread, no locks.

    All methods are called on the loop's thread. Times are `time.monotonic()` seconds: the clock of
    `loop.time()`, which uvloop rounds to milliseconds.

    Parameters
    ----------
    loop
        The running loop where None.

    Attributes
    ----------
    repository
        The models by name and version.

    Examples
    --------
    >>> import numpy as np
    >>> async def ask() -> str:
    ...     core = Core()
    ...     try:
    ...         await core.infer(InferRequest("resnet", {"x": np.zeros((1, 3), np.float32)}))
    ...     except ServeError as error:
    ...         return f"{error.status}: {error}"
    ...     finally:
    ...         await core.drain(1.0)
    >>> asyncio.run(ask())
    "404: there is no model 'resnet'"
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.loop = loop or asyncio.get_running_loop()
        self.repository = Repository(self.loop)
        self.refused: dict[str, int] = {}
        """Requests that reached no model, by `ServeError.reason`."""
        self.draining = False
        """Whether everything is refused, for the end of the server."""

    def submit(self, request: InferRequest, done: Done) -> Ticket:
        """Compute a request; `done` gets the response or the error, exactly once.

        Never raises and never blocks. `done` is called on the loop's thread, within this very call
        where the request is refused or answered from the cache, and never after a cancellation.
        """
        try:
            if self.draining:
                raise Unavailable("the server is stopping", retry_after=1.0)
            batcher = self.repository.resolve(request)
        except ServeError as error:
            self.note(error)
            ticket = Ticket(None, request, done)
            ticket.state = ANSWERED
            deliver(done, error)
            return ticket
        return batcher.submit(request, done)

    async def infer(self, request: InferRequest) -> InferResponse:
        """As `submit`, for callers that await; cancelling it takes the request back.

        Raises
        ------
        ServeError
            When there is no answer.
        """
        future: asyncio.Future[InferResponse] = self.loop.create_future()

        def done(result: InferResponse | ServeError) -> None:
            if future.done():
                return
            if isinstance(result, ServeError):
                future.set_exception(result)
            else:
                future.set_result(result)

        ticket = self.submit(request, done)
        try:
            return await future
        finally:
            ticket.cancel()

    def refusal(self, model: str, version: str = "") -> ServeError | None:
        """Why a request of one row would be refused now; None when it would be taken.

        Some microseconds: ask before reading and decoding a body.
        """
        try:
            if self.draining:
                raise Unavailable("the server is stopping", retry_after=1.0)
            return self.repository.batcher(model, version).refusal()
        except ServeError as error:
            self.note(error)
            return error

    def note(self, error: ServeError) -> None:
        """Count a request to infer that reached no model: fronts do, where they refuse one."""
        self.refused[error.reason] = self.refused.get(error.reason, 0) + 1

    def lane(self, model: str, version: str = "") -> Express | None:
        """The express lane to a model, None where it has none or is not there."""
        if self.draining:
            return None
        try:
            return self.repository.batcher(model, version).express
        except ServeError:
            return None

    def live(self) -> bool:
        """Whether the process works at all: it does when it can say so."""
        return True

    def ready(self) -> bool:
        """Whether every model that should be served takes requests, and the server stays."""
        return not self.draining and self.repository.all_ready()

    async def drain(self, limit: float) -> bool:
        """Refuse new requests, answer those taken, close everything. For the end of the server.

        Parameters
        ----------
        limit
            Seconds after which what is still open is answered with an error.

        Returns
        -------
        Whether everything was answered within the limit.
        """
        self.draining = True
        drains = [asyncio.ensure_future(it.drain()) for it in self.repository.batchers()]
        pending: set[asyncio.Future[None]] = set()
        if drains:
            _, pending = await asyncio.wait(drains, timeout=limit)
        for drain in pending:
            drain.cancel()
        await self.repository.close()
        return not pending
