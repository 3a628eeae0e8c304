"""Children by role, each started when first needed and replaced once it is dead."""

from __future__ import annotations

import threading
from typing import Any

from strop.workers.child import Child
from strop.workers.errors import ChildError


class Pool:
    """Children by role; importing an engine or a framework is paid for once a role.

    Parameters
    ----------
    defaults
        Arguments of every :class:`~strop.workers.Child` but its name, which is the role.

    Examples
    --------
    >>> with Pool(env={"OMP_NUM_THREADS": "1"}) as pool:
    ...     pool.child("build").call("os:getenv", key="OMP_NUM_THREADS")
    '1'
    """

    def __init__(self, **defaults: Any) -> None:
        self._defaults = defaults
        self._children: dict[str, Child] = {}
        self._lock = threading.Lock()
        self._closed = False

    def child(self, role: str) -> Child:
        """The living child of a role: the same one as before unless that one died.

        Raises
        ------
        ChildError
            The pool is closed, or a new child cannot be started.
        """
        with self._lock:
            if self._closed:
                raise ChildError(f"the pool is closed and has no child for '{role}'")
            child = self._children.get(role)
            if child is not None and child.alive:
                return child
            if child is not None:
                child.close()
            child = Child(name=role, **self._defaults)
            self._children[role] = child
            return child

    def close(self) -> None:
        """Close every child; may be called again."""
        with self._lock:
            self._closed = True
            children = list(self._children.values())
            self._children.clear()
        for child in children:
            child.close()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
