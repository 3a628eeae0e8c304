"""Built models and artefacts by content: shared prefixes are built once, a rerun costs nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from strop.records import canonical_json

_DEFAULT_LIMIT = 20 * 2**30


class Cache:
    """A folder of immutable directories, bounded, least recently used first to go.

    Parameters
    ----------
    folder
        Made when missing. The default is ``$XDG_CACHE_HOME/strop`` (``~/.cache/strop``), or
        ``$STROP_CACHE`` where that is set.
    limit
        Bytes to keep at most; entries used since this object was made always stay.
    """

    def __init__(self, folder: Path | None = None, *, limit: int = _DEFAULT_LIMIT) -> None:
        self.folder = folder or default_folder()
        self.limit = limit
        self.folder.mkdir(parents=True, exist_ok=True)
        self._used: set[str] = set()
        self.hits = 0
        self.misses = 0

    def get(self, key: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        """The directory for `key`, made by `make(empty directory)` when there is none.

        The directory is written aside, synced and renamed, so that it is whole or absent
        whatever happens; when two processes make the same entry, the first one stays.
        """
        name = _digest(key)
        entry = self.folder / name
        self._used.add(name)
        if entry.is_dir():
            self.hits += 1
            with contextlib.suppress(OSError):
                os.utime(entry)
            return entry
        self.misses += 1
        aside = Path(tempfile.mkdtemp(prefix=f".{name[:12]}-", dir=self.folder))
        try:
            make(aside)
            _sync_tree(aside)
            try:
                aside.rename(entry)
            except OSError:
                if not entry.is_dir():
                    raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        self._evict()
        return entry

    def _evict(self) -> None:
        entries = []
        for entry in self.folder.iterdir():
            with contextlib.suppress(OSError):
                if entry.is_dir() and not entry.name.startswith("."):
                    entries.append((entry.stat().st_mtime, entry, _size(entry)))
        total = sum(size for _, _, size in entries)
        for _, entry, size in sorted(entries, key=lambda item: item[0]):
            if total <= self.limit:
                return
            if entry.name not in self._used:
                shutil.rmtree(entry, ignore_errors=True)
                total -= size


def default_folder() -> Path:
    """Where built things are kept between runs."""
    if chosen := os.environ.get("STROP_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "strop"


def _digest(key: Mapping[str, Any]) -> str:
    import hashlib

    return hashlib.sha256(canonical_json(dict(key)).encode()).hexdigest()


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _sync_tree(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
