"""The journal of a search: one JSON line an event, on disk before anything depends on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from strop.records import Event, read_event


class Journal:
    """Appends events; one writer.

    Every line is flushed and fsynced before :meth:`append` returns, so that ``kill -9`` loses at
    most the trial in flight.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _drop_torn_tail(path)
        self._file: IO[bytes] = path.open("ab")

    def append(self, event: Event) -> None:
        self._file.write(event.to_json().encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


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
