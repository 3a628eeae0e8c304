"""What can go wrong with a child process."""

from __future__ import annotations

import signal
from typing import Self

from strop.errors import StropError


class ChildError(StropError):
    """A child process could not be started, spoken to or used.

    Attributes
    ----------
    log
        The last lines that the child wrote to its stdout and stderr during the call.
    """

    def __init__(self, message: str, *, hint: str | None = None, log: str = "") -> None:
        super().__init__(message, hint=hint)
        self.log = log


class ChildDied(ChildError):
    """The child process ended while it was needed.

    Attributes
    ----------
    exit_code
        Its exit code, or ``None`` when a signal ended it.
    signal
        The name of that signal, such as ``"SIGSEGV"``, or ``None``.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        log: str = "",
        exit_code: int | None = None,
        signal: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, log=log)
        self.exit_code = exit_code
        self.signal = signal

    @classmethod
    def after(cls, status: int, who: str, doing: str, log: str) -> Self:
        """The error for a process that ended with an exit code, or minus a signal's number."""
        last = [line.strip()[:160] for line in log.splitlines() if line.strip()][-5:]
        words = f"; its last words: {' / '.join(last)}" if last else ""
        if status >= 0:
            message = f"{who} ended with exit code {status}{doing}{words}"
            return cls(message, log=log, exit_code=status)
        name = _signal_name(-status)
        reason = " (possibly the system ran out of memory)" if name == "SIGKILL" else ""
        return cls(f"{who} died with {name}{reason}{doing}{words}", log=log, signal=name)


class ChildTimeout(ChildError):
    """The child did not answer in time and was killed.

    Attributes
    ----------
    seconds
        What it was given; None where that is not known.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        log: str = "",
        seconds: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint, log=log)
        self.seconds = seconds


class ChildOutOfMemory(ChildError):
    """The child grew beyond its memory limit and was killed.

    Attributes
    ----------
    rss
        Its resident set size when it was killed, in bytes.
    limit
        The limit, in bytes.
    """

    def __init__(self, message: str, *, rss: int, limit: int, log: str = "") -> None:
        super().__init__(message, log=log)
        self.rss = rss
        self.limit = limit


class ChildFailed(ChildError):
    """The function raised inside the child, which lives on.

    Attributes
    ----------
    error_type
        The name of the exception's class, such as ``"ValueError"``.
    error_bases
        The names of that class and all its bases, in method resolution order, so that a caller
        can ask for ``"InputError" in failed.error_bases``.
    error_message
        The exception as text.
    traceback
        The traceback inside the child.
    """

    def __init__(
        self,
        *,
        error_type: str,
        error_message: str,
        error_bases: tuple[str, ...] = (),
        traceback: str = "",
        log: str = "",
    ) -> None:
        super().__init__(f"{error_type}: {error_message}" if error_message else error_type, log=log)
        self.error_type = error_type
        self.error_bases = error_bases
        self.error_message = error_message
        self.traceback = traceback


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no name
        return f"signal {number}"
