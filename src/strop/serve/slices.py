"""How soon a thread gets the core once it has something to do."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
import threading

_SLICE = 500_000  # nanoseconds: above the 100,000 that Linux takes at least, for the caches' sake
_SET, _GET = {"x86_64": (314, 315), "aarch64": (274, 275), "riscv64": (274, 275)}.get(
    platform.machine(), (0, 0)
)
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")  # struct sched_attr as of Linux 3.14, 48 bytes
_SHARED = (0, 3)  # SCHED_OTHER and SCHED_BATCH
_RESET_ON_FORK = 1


def take_short_turns() -> bool:
    """Have this thread run soon after it wakes, for less time at once; whether Linux agreed.

    A thread that computes keeps the core to the end of its turn, some milliseconds, however short
    the work of one that waits for the same core. Since Linux 6.12 a thread may ask for shorter
    turns, and gets them earlier: its share of the core, its priority and other processes are as
    before, and no privilege is needed. Threads that this one starts have the usual turns.

    Elsewhere, and for a process whose priority was raised, which those threads would lose, nothing
    happens.
    """
    if not sys.platform.startswith("linux") or not _SET:
        return False
    thread = threading.get_native_id()
    if os.getpriority(os.PRIO_PROCESS, thread) < 0:
        return False
    system = ctypes.CDLL(None).syscall
    buffer = ctypes.create_string_buffer(_ATTRIBUTES.size)
    if system(_GET, thread, buffer, _ATTRIBUTES.size, 0):
        return False
    _, policy, flags, nice, priority, _, deadline, period = _ATTRIBUTES.unpack(buffer.raw)
    if policy not in _SHARED:
        return False
    wanted = _ATTRIBUTES.pack(
        _ATTRIBUTES.size, policy, flags | _RESET_ON_FORK, nice, priority, _SLICE, deadline, period
    )
    return not system(_SET, thread, wanted, 0)
