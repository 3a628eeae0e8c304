"""The time of a training run, over all attempts at it."""

from __future__ import annotations

import time

END_SHARE = 0.97
"""Of the time, for training; the rest is for ending it."""


class Clock:
    """Started when made.

    Parameters
    ----------
    seconds
        Limit over all attempts; None for none.
    deadline
        `time.monotonic` value by which this attempt must have ended; None for none.

    Attributes
    ----------
    before
        Seconds of earlier attempts.
    """

    def __init__(self, seconds: float | None, deadline: float | None) -> None:
        self._start = time.monotonic()
        self._seconds, self._deadline = seconds, deadline
        self.before = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds over all attempts."""
        return self.before + time.monotonic() - self._start

    @property
    def limit(self) -> float | None:
        """Seconds over all attempts after which it must end; None for ever."""
        limits = [] if self._seconds is None else [self._seconds]
        if self._deadline is not None:
            limits.append(self._deadline - self._start + self.before)
        return min(limits, default=None)

    @property
    def left(self) -> float | None:
        """Seconds for training, less what ending it takes; None without a limit."""
        limit = self.limit
        return None if limit is None else max(limit * END_SHARE - self.elapsed, 0.0)

    @property
    def over(self) -> bool:
        """Whether the limit has passed."""
        limit = self.limit
        return limit is not None and self.elapsed > limit
