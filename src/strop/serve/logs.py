"""Logs as JSON lines: events at once, requests from a thread of their own."""

from __future__ import annotations

import contextlib
import logging
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

import orjson

if TYPE_CHECKING:
    from strop.serve.exchange import Exchange

_WAITING = 100_000  # lines of the access log that may wait to be written


class Log:
    """Writes one event a line: JSON, or plain text where a person sits at a terminal."""

    def __init__(self, stream: TextIO | None = None, *, plain: bool | None = None) -> None:
        self._stream = stream or sys.stderr
        self._plain = self._stream.isatty() if plain is None else plain

    def event(self, event: str, *, level: str = "info", **fields: Any) -> None:
        """Something happened to the server."""
        now = datetime.now(UTC)
        if self._plain:
            rest = " ".join(f"{key}={value}" for key, value in fields.items())
            self.write(f"{now:%H:%M:%S} {event} {rest}".rstrip() + "\n")
        else:
            self.write(line({"time": _stamp(now), "level": level, "event": event, **fields}))

    def fault(self, error: BaseException, *, request: str) -> None:
        """Something went wrong that nobody foresaw: the whole trace, which no client ever sees."""
        trace = "".join(traceback.format_exception(error))
        self.event("fault", level="error", request=request, trace=trace)

    def write(self, text: str) -> None:
        """Write a line; a log that cannot be written does not stop the server."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()


class AccessLog:
    """One line a request, written by a thread: the event loop only puts tuples in a queue.

    Lines that cannot be written as fast as requests come are dropped and counted.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._queue: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="strop-access-log", daemon=True)
        self._thread.start()

    def request(self, exchange: Exchange, status: int, size: int) -> None:
        """Note an answer of `size` bytes."""
        self._put(
            exchange.request_id,
            exchange.method,
            exchange.target[:512],
            {"status": status},
            exchange.held or exchange.length or 0,
            size,
            exchange.seconds(),
        )

    def call(
        self,
        identity: str,
        target: bytes,
        outcome: dict[str, Any],
        received: int,
        sent: int,
        seconds: float,
    ) -> None:
        """Note an answer over gRPC; what became of it is in `outcome`."""
        self._put(identity, b"POST", target, outcome, received, sent, seconds)

    def close(self) -> None:
        """Write what waits, and end."""
        self._queue.put(None)
        self._thread.join(2.0)

    def _put(self, *entry: Any) -> None:
        if self._queue.qsize() >= _WAITING:
            self._dropped += 1
        else:
            self._queue.put((time.time(), *entry))

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            entries = [entry]
            while len(entries) < 1000:
                try:
                    following = self._queue.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    self._queue.put(None)
                    break
                entries.append(following)
            self._log.write("".join(map(_request_line, entries)))
            if dropped := self._dropped:
                self._dropped = 0
                self._log.event("access-log-dropped", level="warning", lines=dropped)


class Records(logging.Handler):
    """Has what modules and libraries say through `logging` written as events, a line each.

    Without it Python writes their bare text between the lines of JSON.
    """

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            fields = {"logger": record.name, "message": record.getMessage()}
            if record.exc_info and record.exc_info[1] is not None:
                fields["trace"] = "".join(traceback.format_exception(record.exc_info[1]))
            self._log.event("message", level=record.levelname.lower(), **fields)
        except Exception:  # one record that cannot be written must not stop who wrote it
            self.handleError(record)


@contextlib.contextmanager
def records_in(log: Log) -> Iterator[None]:
    """Meanwhile, warnings and errors of the whole process are events of this log."""
    handler, root = Records(log), logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


def line(fields: dict[str, Any]) -> str:
    r"""One line of JSON.

    Examples
    --------
    >>> line({"event": "ready", "models": 2})
    '{"event":"ready","models":2}\n'
    """
    return orjson.dumps(fields, default=str).decode() + "\n"


def _request_line(entry: tuple[Any, ...]) -> str:
    when, identity, method, target, outcome, received, sent, seconds = entry
    return line(
        {
            "time": _stamp(datetime.fromtimestamp(when, UTC)),
            "level": "info",
            "event": "request",
            "request": identity,
            "method": method.decode("latin-1"),
            "target": target.decode("latin-1"),
            **outcome,
            "bytes_in": received,
            "bytes_out": sent,
            "seconds": round(seconds, 6),
        }
    )


def _stamp(when: datetime) -> str:
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
