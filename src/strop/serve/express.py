"""The express lane: small requests of one plain form, read, computed and answered a batch at once.

Why it is there: a model of some microseconds costs less than the objects that carry a request
through the core. What the lane may take is what needs none of them: one row of numbers as JSON, for
a model with one input and one output that runs on the loop's own thread, while nothing else waits
for that model. Nothing about such a request has to be decided, ordered or timed, because its batch
is computed within the same round of the loop. Whatever is different in the least (an id, a
parameter, a second row, malformed data, a queue, a model that fails) goes the ordinary way, which
answers the same request with the same bytes: the lane may be taken out, and nothing changes but the
time.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import orjson

from strop.serve.buckets import Fixed
from strop.serve.codec import Limits, decode, dtype_of
from strop.serve.codec.json_codec import packer
from strop.serve.codec.messages import encode_rows
from strop.serve.errors import ServeError
from strop.serve.instance import keep_inline
from strop.serve.lanes import Lanes
from strop.serve.model import ServedModel
from strop.serve.policy import Policy, QueueView
from strop.serve.request import InferRequest
from strop.serve.ticket import Submit

if TYPE_CHECKING:
    from strop.serve.known import KnownHead
    from strop.serve.outgoing import Outgoing

_log = logging.getLogger("strop.serve")

Passing = tuple["Outgoing", "KnownHead", bytes, int]
"""A request in the lane: who asks, with which head, and all that was sent; the body from the last.

The connection has a slot for it among its exchanges, which keeps answers in order. (A named tuple
takes eight times as long to make.)
"""

_HOLE = re.compile(rb'"data"\s*:\s*(\[[^][{}"]*\])')
_PROBE = 314159
_FORMS = 8  # as many ways to write the same request are remembered for one model
_LONGEST_FRAME = 4096
_MOST_PATIENCE = 1024  # bodies of no known form that pass before one is looked at again


class Form(NamedTuple):
    """The bytes around the numbers, of a body that the ordinary way has read and found plain."""

    before: bytes
    after: bytes
    start: int  # of the numbers, from the start of the body
    end: int  # of the numbers, from the end of the body: below zero


class Express:
    """The lane of one loaded model; everything happens on the event loop's thread.

    Parameters
    ----------
    lanes
        The model's queue: nothing passes while anything waits there.
    submit
        Puts a request that was taken here into that queue, also while the model is being unloaded.
    emptied
        Called whenever nothing waits here any more.

    Attributes
    ----------
    waiting
        Requests taken in this round of the loop, in order of arrival.
    closed
        Whether the lane takes no more, for its model is being unloaded.
    """

    def __init__(
        self,
        model: ServedModel,
        policy: Policy,
        loop: asyncio.AbstractEventLoop,
        lanes: Lanes,
        submit: Submit,
        emptied: Callable[[], None],
    ) -> None:
        (given,), (returned,) = model.signature.inputs, model.signature.outputs
        assert given.shape is not None
        self.waiting: list[Passing] = []
        self.closed = False
        self._rows: list[bytes] = []
        self._arrived: list[float] = []
        self._model = model
        self._policy = policy
        self._loop = loop
        self._lanes = lanes
        self._submit = submit
        self._emptied = emptied
        self._input, self._output = given.name, returned.name
        self._dtype = dtype_of(model.inputs[0].datatype)
        self._shape = (-1, *(dim for dim in given.shape[1:] if isinstance(dim, int)))
        count = math.prod(self._shape[1:])
        self._pack = packer(model.inputs[0].datatype, count).pack
        settings = model.settings
        self._most = min(
            settings.max_queue, max(1, settings.max_queue_bytes // (count * self._dtype.itemsize))
        )
        self._forms: list[Form] = []
        self._form = Form(b"\0", b"\0", 1, -1)  # of the last request; none begins with a zero
        self._misses = 0
        self._patience = 1

    @staticmethod
    def suits(model: ServedModel) -> bool:
        """Whether requests for a model may ever take the lane."""
        settings, signature = model.settings, model.signature
        if len(signature.inputs) != 1 or len(signature.outputs) != 1:
            return False
        shape = signature.inputs[0].shape
        return (
            model.inline
            and model.batching.allowed
            and model.workers == 1
            and settings.slo is None
            and settings.policy == "deadline"
            and not settings.cache_bytes
            and isinstance(model.buckets, Fixed)
            and shape is not None
            and all(isinstance(dim, int) and dim > 0 for dim in shape[1:])
            and all(np.dtype(it).kind in "iuf" for it in _native(model))
        )

    def take(self, connection: Outgoing, known: KnownHead, data: bytes, end: int) -> bool:
        """Whether the lane answers this request; nothing has happened to it where not."""
        waiting = self.waiting
        if self.closed or not self._model.inline or self._lanes.requests:
            return False
        if len(waiting) >= self._most:
            return False
        before, after, start, stop = self._form
        if not (data.startswith(before, end) and data.endswith(after)):
            form = self._form_of(data[end:], connection.front.limits)
            if form is None:
                return False
            before, after, start, stop = self._form = form
        try:
            row = self._pack(*orjson.loads(data[end + start : stop]))
        except (ValueError, TypeError, OverflowError, struct.error):
            return False
        if not waiting:
            # At the end of this round, as for the queue: what other sockets bring joins the batch.
            self._loop.call_soon(self._run)
        waiting.append((connection, known, data, end))
        self._rows.append(row)
        self._arrived.append(time.monotonic())
        return True

    def hand_over(self) -> None:
        """Send what waits the ordinary way."""
        waiting, arrived = self._leave(len(self.waiting))
        for (connection, known, data, end), moment in zip(waiting, arrived, strict=True):
            if not connection.closed:
                exchange = connection.resume(known, data[end:], moment)
                exchange.submit = self._submit
                exchange.dispatch()
        self._emptied()

    def abort(self, error: ServeError) -> None:
        """Answer what waits with an error."""
        self.closed = True
        statistics, now = self._model.statistics, time.monotonic()
        waiting, arrived = self._leave(len(self.waiting))
        for (connection, known, data, end), moment in zip(waiting, arrived, strict=True):
            if not connection.closed:
                statistics.refuse(error.reason)
                statistics.fail.add(1, now - moment)
                connection.resume(known, data[end:], moment).fail(error)

    # One batch.

    def _run(self) -> None:
        """Compute one batch and answer it; the loop reads its sockets before the next."""
        self._forget_the_gone()
        if not self.waiting:
            self._emptied()
            return
        model = self._model
        if not (model.inline or self.closed):
            self.hand_over()  # it turned slow: nothing of it runs on this thread any more
            return
        started = time.monotonic()
        view = QueueView(len(self.waiting), self._arrived[0], math.inf, math.inf, 1)
        rows = self._rows[: self._policy.choose(view, model.curve, started).rows]
        many = len(rows)
        try:
            together = np.frombuffer(b"".join(rows), self._dtype).reshape(self._shape)
            gathered = time.monotonic()
            outputs = model.run({self._input: together})
            ended = time.monotonic()
            texts = encode_rows(model.name, model.version, self._output, outputs[self._output])
            if len(texts) != many:
                raise ValueError(f"{len(texts)} answers to {many} rows")
        except Exception as error:
            # The ordinary way computes them again, alone where need be, and says what is wrong.
            _log.debug("an express batch of '%s' failed: %s", model.name, error)
            self.hand_over()
            return
        taken, arrived = self._leave(many)
        if self.waiting:
            self._loop.call_soon(self._run)
        model.curve.observe(many, ended - started)
        keep_inline(model, ended - started)
        size = model.statistics.batch(many, many, gathered - started, ended - gathered)
        now = time.monotonic()
        model.statistics.answered(arrived, started, now)
        for (connection, _, _, _), text in zip(taken, texts, strict=True):
            try:
                connection.passed(text, now)
            except Exception:
                _log.exception("a connection failed to take an answer")
        scatter = time.monotonic() - now
        model.statistics.scatter.add(many, scatter)
        size.scatter.add(1, scatter)
        if not self.waiting:
            self._emptied()

    def _leave(self, many: int) -> tuple[list[Passing], list[float]]:
        """Take out the first, and their bytes from those in flight."""
        taken, arrived = self.waiting[:many], self._arrived[:many]
        self.waiting, self._arrived = self.waiting[many:], self._arrived[many:]
        self._rows = self._rows[many:]
        if taken:
            taken[0][0].front.in_flight -= sum([len(passing[2]) for passing in taken])
        return taken, arrived

    def _forget_the_gone(self) -> None:
        if True not in [passing[0].closed for passing in self.waiting]:
            return
        waiting, arrived, rows = self.waiting, self._arrived, self._rows
        self.waiting, self._arrived, self._rows = [], [], []
        for passing, moment, row in zip(waiting, arrived, rows, strict=True):
            if passing[0].closed:
                passing[0].front.in_flight -= len(passing[2])
                self._model.statistics.cancelled += 1
            else:
                self.waiting.append(passing)
                self._arrived.append(moment)
                self._rows.append(row)

    # Forms of bodies.

    def _form_of(self, body: bytes, limits: Limits) -> Form | None:
        """The form of a body that is not like the one before it, None where it has none."""
        for form in self._forms:
            if body.startswith(form.before) and body.endswith(form.after):
                return form
        self._misses += 1
        if self._misses < self._patience:
            return None
        self._misses = 0
        learnt = self._learn(body, limits)
        if learnt is None or len(self._forms) == _FORMS:
            # Clients whose every body differs (an id, say) should not make all pay for this.
            self._patience = min(2 * self._patience, _MOST_PATIENCE)
        if learnt is not None:
            self._forms = [learnt, *self._forms[: _FORMS - 1]]
        return learnt

    def _learn(self, body: bytes, limits: Limits) -> Form | None:
        """The form of a body, if all that it asks for is one row through the model.

        A number put in the place of the data has to come out as the data: then the place is that
        of a value, and any other JSON value may stand there without changing the rest.
        """
        found = _HOLE.search(body)
        if found is None:
            return None
        before, after = body[: found.start(1)], body[found.end(1) :]
        if len(before) + len(after) > _LONGEST_FRAME:
            return None
        try:
            decoded = decode(body, None, limits)
            probe = orjson.loads(b"%b%d%b" % (before, _PROBE, after))
            request = InferRequest(self._model.name, decoded.inputs, outputs=decoded.outputs)
            rows = self._model.check(request)
        except (ServeError, ValueError):
            return None
        plain = (
            probe["inputs"][0].get("data") == _PROBE
            and rows == 1
            and decoded.outputs is None
            and decoded.binary is False
            and decoded.timeout is None
            and not (decoded.id or decoded.priority or decoded.parameters)
        )
        return Form(before, after, len(before), -len(after)) if plain else None


def _native(model: ServedModel) -> tuple[str, str]:
    """The dtypes of input and output; those that numpy does not know by itself count as text."""
    kinds = (model.signature.inputs[0].dtype, model.signature.outputs[0].dtype)
    return tuple("str" if kind == "bfloat16" else kind for kind in kinds)  # type: ignore[return-value]
