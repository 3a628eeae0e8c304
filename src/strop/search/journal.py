"""The journal of a search: one JSON line an event, on disk before anything depends on it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from strop.errors import InputError
from strop.records import Event, read_event


class Journal:
    """Appends events; one writer.

    Every line is flushed and fsynced before :meth:`append` returns, so that ``kill -9`` loses at
    most the trial in flight.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            _drop_torn_tail(path)
            # Unbuffered, so that what a full disk refused is not tried again when it is closed.
            self._file: IO[bytes] = path.open("ab", buffering=0)
        except OSError as error:
            raise self._refused(error) from error

    def append(self, event: Event) -> None:
        """Write one event down.

        Raises
        ------
        InputError
            When the disk is full or gone; what was written before stays whole.
        """
        line = memoryview(event.to_json().encode() + b"\n")
        whole = self._file.seek(0, os.SEEK_END)
        try:
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(whole)
            raise self._refused(error) from error

    def close(self) -> None:
        self._file.close()

    def _refused(self, error: OSError) -> InputError:
        return InputError(
            f"the journal '{self.path}' cannot be written: {error.strerror}",
            hint="make room, then go on with --resume, or name another folder with --output",
        )


def read_journal(path: Path) -> Iterator[Event]:
    """The events on disk, oldest first; a torn last line is passed over."""
    if not path.exists():
        return
    with path.open("rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                return
            yield read_event(line)


def _drop_torn_tail(path: Path) -> None:
    """Cut what a crash left after the last newline, so that new lines start clean."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole != len(content):
        with path.open("r+b") as stream:
            stream.truncate(whole)
