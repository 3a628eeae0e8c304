"""Built models and artefacts by content: shared prefixes are built once, a rerun costs nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from errno import ENOSPC
from pathlib import Path
from typing import Any

from strop.errors import InputError, StropError
from strop.records import canonical_json

_DEFAULT_LIMIT = 20 * 2**30
_KEPT = ".kept"
_KEPT_SECONDS = 7 * 24 * 3600.0
_FULL = 2**16  # bytes: a file system with less than this is what made a build fail


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
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _refused(self.folder, error.strerror) from error
        self._used: set[str] = set()
        self.hits = 0
        self.misses = 0

    def get(self, key: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        """The directory for `key`, made by `make(empty directory)` when there is none.

        The directory is written aside, synced and renamed, so that it is whole or absent
        whatever happens; when two processes make the same entry, the first one stays.

        Raises
        ------
        InputError
            When the disk is full or cannot be written to.
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
        aside: Path | None = None
        try:
            aside = Path(tempfile.mkdtemp(prefix=f".{name[:12]}-", dir=self.folder))
            make(aside)
            _sync_tree(aside)
            try:
                aside.rename(entry)
            except OSError:
                if not entry.is_dir():
                    raise
        except (OSError, StropError) as error:
            # What a child could not write shows here only as a failure of the child.
            if isinstance(error, OSError) or self._is_full():
                reason = error.strerror if isinstance(error, OSError) else os.strerror(ENOSPC)
                raise _refused(self.folder, reason) from error
            raise
        finally:
            if aside is not None:
                shutil.rmtree(aside, ignore_errors=True)
        self._evict()
        return entry

    def kept(self, key: Mapping[str, Any]) -> Path:
        """A directory for what must outlive a kill on the way to the entry for `key`.

        Its neighbours in ``.kept`` may be shared by several entries. What has lain unused for a
        week goes, and the oldest first when they hold more than a quarter of the limit.
        """
        folder = self.folder / _KEPT / _digest(key)
        self._used.add(folder.name)
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        self._evict_kept()
        return folder

    def forget(self, key: Mapping[str, Any]) -> None:
        """Remove what :meth:`kept` kept: the entry is made, or never will be."""
        shutil.rmtree(self.folder / _KEPT / _digest(key), ignore_errors=True)

    def _evict_kept(self) -> None:
        found = []
        for folder in (self.folder / _KEPT).iterdir():
            with contextlib.suppress(OSError):
                found.append((folder.stat().st_mtime, folder, _size(folder)))
        total = sum(size for _, _, size in found)
        for used, folder, size in sorted(found, key=lambda item: item[0]):
            old = time.time() - used > _KEPT_SECONDS
            if folder.name not in self._used and (old or total > self.limit // 4):
                shutil.rmtree(folder, ignore_errors=True)
                total -= size

    def _is_full(self) -> bool:
        with contextlib.suppress(OSError):
            return shutil.disk_usage(self.folder).free < _FULL
        return False

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


def _refused(folder: Path, reason: str | None) -> InputError:
    return InputError(
        f"the cache '{folder}' cannot be written: {reason}",
        hint="make room, or set STROP_CACHE to another folder",
    )


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
