"""How much memory a process holds, seen from outside."""

from __future__ import annotations

import sys
from pathlib import Path


def rss(pid: int) -> int:
    """Resident set size in bytes; raises ProcessLookupError when there is no such process."""
    return _bytes(pid, "VmRSS")


def peak_rss(pid: int) -> int:
    """Largest resident set size so far in bytes, where the system keeps it; else the present one.

    Linux keeps it (``VmHWM`` in proc_pid_status(5)).
    """
    return _bytes(pid, "VmHWM")


def _bytes(pid: int, field: str) -> int:
    if sys.platform == "linux":
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except FileNotFoundError as error:
            raise ProcessLookupError(pid) from error
        for line in status.splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
        raise ProcessLookupError(pid)  # a zombie has no memory fields
    else:
        import psutil

        try:
            return int(psutil.Process(pid).memory_info().rss)
        except psutil.NoSuchProcess as error:
            raise ProcessLookupError(pid) from error
