"""What notices that the event loop hangs, when the loop itself cannot say so."""

from __future__ import annotations

import asyncio
import faulthandler
import sys
import time

from strop.serve.logs import Log

_BEATS = 4  # in the time after which the loop counts as stuck


class Watchdog:
    """Writes every thread's stack to stderr when the loop has not run for a while.

    The loop winds up a timer of the interpreter's fault handler, again and again; when it does not
    come back in time, the timer goes off. It is a thread of C code that needs no lock of the
    interpreter's, so it also sees a model that computes while it holds that lock, which no thread
    of Python's could.

    Parameters
    ----------
    seconds
        After which the loop is stuck, which is noticed at most a quarter of that later; 0 never
        looks.
    leave
        Whether the process then ends with exit code 1, for whatever started it to start it again.
        What it was asked and has not answered is lost.
    """

    def __init__(self, seconds: float, log: Log, *, leave: bool = False) -> None:
        self._seconds = seconds
        self._interval = seconds / _BEATS
        self._leave = leave
        self._log = log
        self._last = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Watch the running loop from now on; one in a process, for there is one fault handler."""
        if self._seconds:
            self._last = time.monotonic()
            self._beat()

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        faulthandler.cancel_dump_traceback_later()

    def _beat(self) -> None:
        now = time.monotonic()
        late = now - self._last - self._interval
        if late > self._seconds:
            self._log.event("was-stuck", level="error", seconds=round(late, 3))
        self._last = now
        faulthandler.dump_traceback_later(
            self._seconds + self._interval, exit=self._leave, file=sys.stderr
        )
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._beat)
