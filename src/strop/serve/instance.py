"""Workers: a thread each, or the event loop's own thread for models of some microseconds."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from weakref import WeakSet

import numpy as np

from strop.engines import Session
from strop.errors import StropError
from strop.serve.errors import ModelFailed, ServeError
from strop.serve.model import ServedModel

_log = logging.getLogger("strop.serve")

INLINE_LIMIT = 0.1
"""Seconds: some hundred times what warm-up allows, and more than a busy machine takes a thread away
for. A batch that takes longer is the last one on the loop's thread."""

Inputs = Mapping[str, np.ndarray]
Outputs = dict[str, np.ndarray]

_threads: WeakSet[threading.Thread] = WeakSet()
_ended = threading.Lock()
_ended.acquire()  # free from the end of a batch on a thread until somebody waited for it


class Batch:
    """What is computed at once: the inputs of several requests in, their outputs out.

    Attributes
    ----------
    parts, rows, total
        Inputs of each request, rows of each, and of all together.
    wanted
        Whether a request is still wanted, asked before anything is computed for it.
    started, gathered, ended
        `time.monotonic()` when it began, when the inputs lay together, and when it was done; 0.0
        before.
    outputs
        Those of the whole batch, None when it failed.
    alone, seconds
        After a failure: what each request gave by itself, None for those not wanted any more; and
        how long that took.
    """

    __slots__ = (
        "alone",
        "ended",
        "gathered",
        "outputs",
        "parts",
        "rows",
        "seconds",
        "started",
        "total",
        "wanted",
    )

    def __init__(
        self,
        parts: Sequence[Inputs],
        rows: Sequence[int],
        wanted: Callable[[int], bool] = lambda index: True,
    ) -> None:
        self.parts = parts
        self.rows = rows
        self.total = sum(rows)
        self.wanted = wanted
        self.started = self.gathered = self.ended = 0.0
        self.outputs: Outputs | None = None
        self.alone: list[Outputs | ServeError | None] = []
        self.seconds: list[float] = []

    def compute(
        self, model: ServedModel, session: Session, buffers: dict[str, np.ndarray] | None
    ) -> None:
        """Run it; whatever the model does, `outputs` or `alone` is set afterwards.

        When the batch fails, its requests are run one by one, so that only those fail that cause
        it. When nobody waits for it any more, nothing is computed.
        """
        self.started = time.monotonic()
        if not any(map(self.wanted, range(len(self.parts)))):
            self.alone, self.seconds = [None] * len(self.parts), [0.0] * len(self.parts)
            self.gathered = self.ended = self.started
            return
        try:
            if len(self.parts) == 1:
                arrays = _laid_out(self.parts[0])
            else:
                arrays = model.buckets.gather(self.parts, buffers)
            self.gathered = time.monotonic()
            outputs = model.finish(session.run(arrays))
            if model.batching.allowed:
                _count_rows(outputs, self.total)
            self.outputs = outputs
        except Exception as error:
            self.gathered = self.gathered or time.monotonic()
            if len(self.parts) == 1:
                self.alone, self.seconds = [_failed(model, error)], [0.0]
            else:
                _log.warning(
                    "a batch of '%s' failed, its requests run alone: %s", model.name, error
                )
                for index in range(len(self.parts)):
                    begin = time.monotonic()
                    self.alone.append(self._by_itself(model, session, index))
                    self.seconds.append(time.monotonic() - begin)
        self.ended = time.monotonic()

    def _by_itself(
        self, model: ServedModel, session: Session, index: int
    ) -> Outputs | ServeError | None:
        if not self.wanted(index):
            return None
        try:
            outputs = model.finish(session.run(_laid_out(self.parts[index])))
            if model.batching.allowed:
                _count_rows(outputs, self.rows[index])
        except Exception as error:
            return _failed(model, error)
        return outputs


class Instance:
    """A worker of one model; all methods are called on the event loop's thread.

    Parameters
    ----------
    completed
        Called on the loop's thread with the instance and the batch, once for each batch.
    session
        None opens a session of its own first, on its own thread.
    """

    def __init__(
        self,
        model: ServedModel,
        loop: AbstractEventLoop,
        completed: Callable[[Instance, Batch], None],
        session: Session | None,
    ) -> None:
        self.model = model
        self.batches: list[Batch] = []
        """Those given to it and not completed, the running one first."""
        self.free_at = 0.0
        """When it is expected to be done with them."""
        self.abandoned = False
        self.failed = False
        """Whether its session could not be opened again."""
        self._loop = loop
        self._completed = completed
        self._session = session
        self._buffers: dict[str, np.ndarray] | None = {} if model.reuses_buffers else None

    def start(self, batch: Batch) -> None:
        """Compute a batch, after those that it has."""
        raise NotImplementedError

    def stop(self) -> None:
        """Take no more batches."""

    def join(self, seconds: float) -> None:
        """Wait until it has stopped; never called on the loop's thread."""


class InlineInstance(Instance):
    """Computes on the loop's own thread, within `start`: no switch of threads at all.

    While it computes nothing else happens, which is right only where that is a fraction of a
    millisecond; and a model that hangs would hang the server. See `keep_inline`.
    """

    def start(self, batch: Batch) -> None:
        assert self._session is not None
        self.batches.append(batch)
        batch.compute(self.model, self._session, self._buffers)
        keep_inline(self.model, batch.ended - batch.started)
        self._completed(self, batch)


class ThreadInstance(Instance):
    """Computes on a thread of its own, while the engine releases the interpreter's lock."""

    def __init__(
        self,
        model: ServedModel,
        loop: AbstractEventLoop,
        completed: Callable[[Instance, Batch], None],
        session: Session | None,
    ) -> None:
        super().__init__(model, loop, completed, session)
        self._inbox: SimpleQueue[Batch | None] = SimpleQueue()
        # A daemon, because a call that hangs in an engine cannot be ended from outside.
        self._thread = threading.Thread(target=self._work, name=f"serve-{model.name}", daemon=True)
        _threads.add(self._thread)
        self._thread.start()

    def start(self, batch: Batch) -> None:
        self.batches.append(batch)
        self._inbox.put(batch)

    def stop(self) -> None:
        self._inbox.put(None)

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def _work(self) -> None:
        try:
            session = self._session or self.model.reopen()
        except StropError as error:
            _log.error("'%s' could not be opened again: %s", self.model.name, error)
            self.failed = True
            return
        while (batch := self._inbox.get()) is not None and not self.abandoned:
            batch.compute(self.model, session, self._buffers)
            try:
                self._loop.call_soon_threadsafe(self._completed, self, batch)
            except RuntimeError:  # the loop is closed: nobody waits any more
                break
            if _ended.locked():
                with contextlib.suppress(RuntimeError):  # another worker was faster
                    _ended.release()
            del batch  # its arrays are not to be kept until the next one comes
        if self._session is None:
            session.close()


def rest(seconds: float) -> None:
    """Leave the core to the workers, until one has ended a batch or so many seconds are over."""
    _ended.acquire(timeout=seconds)


def still_computing() -> bool:
    """Whether any worker's thread is there, which at the end of the process is one that hangs."""
    return any(thread.is_alive() for thread in list(_threads))


def keep_inline(model: ServedModel, seconds: float) -> None:
    """A batch took so long on the loop's thread: whether the next may run there is in `inline`."""
    if seconds > INLINE_LIMIT and model.inline:
        model.inline = False
        _log.warning(
            "a batch of '%s' held the server up for %.2f s: it runs on a thread from now on",
            model.name,
            seconds,
        )


def _laid_out(part: Inputs) -> dict[str, np.ndarray]:
    """Arrays as engines read them in place: contiguous, and aligned to their elements.

    A tensor in the middle of a receive buffer may begin at any byte.
    """
    return {
        name: array
        if array.flags.c_contiguous and array.flags.aligned
        else np.require(array, requirements=["C", "A"])
        for name, array in part.items()
    }


def _count_rows(outputs: Outputs, rows: int) -> None:
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != rows:
            raise StropError(f"output '{name}' has the shape {array.shape} for {rows} rows")


def _failed(model: ServedModel, error: Exception) -> ModelFailed:
    """What the client is told; what the engine said may hold paths and goes to the log."""
    _log.error("the model '%s' failed: %s", model.name, error)
    return ModelFailed(f"the model '{model.name}' failed on this request")
