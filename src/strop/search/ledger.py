"""The ledger of proof sets: how often each has been opened, and at which share of the error.

A proof set that is opened again and again proves something false in the end (ten reruns at full
error: 29.5%). Run k on the same set therefore spends α/(k(k+1)); the shares sum to α.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from pathlib import Path
from typing import IO

from strop.errors import InputError


class Ledger:
    """One JSON line an opening, kept per user in ``$XDG_STATE_HOME/strop/ledger.jsonl``.

    Parameters
    ----------
    path
        Another file; ``$STROP_LEDGER`` does the same.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_path()

    def open_set(self, proof_set: str, plan: str) -> int:
        """Record that `plan` opens `proof_set`; return which run on that set this is, from 1.

        The very same plan (candidates, order, tolerance, metric, method, data) gives the same
        verdict however often it runs, so it keeps the number it has.

        Raises
        ------
        InputError
            When the ledger cannot be written: without it no error rate could be promised.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b", buffering=0) as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                stream.seek(0)
                run = 1
                for line in stream.read().splitlines():
                    try:
                        entry = json.loads(line)
                    except ValueError:
                        continue
                    if entry["proof_set"] == proof_set:
                        if entry["plan"] == plan:
                            return int(entry["run"])
                        run = max(run, int(entry["run"]) + 1)
                entry = {
                    "proof_set": proof_set,
                    "plan": plan,
                    "run": run,
                    "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                }
                _append(stream, json.dumps(entry).encode() + b"\n")
                return run
        except OSError as error:
            raise InputError(
                f"the ledger of proof sets '{self.path}' cannot be written: {error.strerror}",
                hint="set STROP_LEDGER to a file that can",
            ) from error


def _append(stream: IO[bytes], line: bytes) -> None:
    """Write the whole line or nothing: half a line would swallow the next one, and its run."""
    end = stream.seek(0, os.SEEK_END)
    stream.seek(max(end - 1, 0))
    if stream.read(1) not in (b"", b"\n"):
        line = b"\n" + line
    rest = memoryview(line)
    try:
        while rest:
            rest = rest[stream.write(rest) :]
        os.fsync(stream.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            stream.truncate(end)
        raise


def default_path() -> Path:
    """Where the ledger lives."""
    if chosen := os.environ.get("STROP_LEDGER"):
        return Path(chosen)
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "strop" / "ledger.jsonl"
