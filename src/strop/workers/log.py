"""Where a child's prints go: an unnamed file, so that they never reach our stdout."""

from __future__ import annotations

import fcntl
import os
import tempfile

_LARGEST = 16 * 2**20  # bytes kept on disk
_TAIL = 16 * 2**10  # bytes ever read back


class Log:
    """An unnamed temporary file to append to; nothing is left behind, whoever dies first."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="strop-worker-")  # noqa: SIM115
        descriptor = self._file.fileno()
        # Append, so that the writer goes on at the start after a truncation.
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_APPEND)

    def fileno(self) -> int:
        """The descriptor to write to."""
        return self._file.fileno()

    def tail(self, lines: int = 40) -> str:
        """The last lines."""
        if self._file.closed:
            return ""
        size = os.fstat(self.fileno()).st_size
        text = os.pread(self.fileno(), _TAIL, max(0, size - _TAIL)).decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def clear(self, *, beyond: int = 0) -> None:
        """Drop what was written, if it is more than so many bytes."""
        if os.fstat(self.fileno()).st_size > beyond:
            os.ftruncate(self.fileno(), 0)

    def bound(self) -> None:
        """Keep a chatty child from filling the disk."""
        self.clear(beyond=_LARGEST)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
