"""Persistent child processes that build, evaluate and time models, so that no crash reaches us.

A child is a fresh interpreter that waits for calls. A segfault, a hang or a memory blow-up inside
it ends that child and arrives here as a :class:`ChildError` with a reason.
"""

from strop.workers.child import Child
from strop.workers.errors import (
    ChildDied,
    ChildError,
    ChildFailed,
    ChildOutOfMemory,
    ChildTimeout,
)
from strop.workers.pool import Pool

__all__ = [
    "Child",
    "ChildDied",
    "ChildError",
    "ChildFailed",
    "ChildOutOfMemory",
    "ChildTimeout",
    "Pool",
]
