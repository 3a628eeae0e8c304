"""A child process as its parent sees it: call a function there, watch over it, end it."""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from strop.workers import memory
from strop.workers.errors import (
    ChildDied,
    ChildError,
    ChildFailed,
    ChildOutOfMemory,
    ChildTimeout,
)
from strop.workers.log import Log
from strop.workers.process import Process
from strop.workers.wire import Wire, encode

_GLANCE = 0.05  # seconds between looks at a child whose memory is limited
_NAP = 1.0  # seconds between looks at any other, so that we do not disturb what it times
_GRACE = 2.0  # seconds that an idle child has to leave by itself
# The path is the parent's before anything of ours is imported. Not -m: that would put the working
# directory first, and a json.py in it must not become ours.
_BOOT = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from strop.workers.serve import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)


class Child:
    """A fresh interpreter that runs named functions, one at a time, until it is closed.

    Values travel as JSON and raw array bytes: JSON values, paths (which arrive as strings), numpy
    arrays of any dtype but object, and lists and dicts of those. What the child prints goes to a
    temporary file whose end is quoted when it dies. It dies with its parent.

    One thread at a time may call; any thread may pause, resume, measure, kill or close.

    Parameters
    ----------
    name
        What error messages and process listings call it.
    env
        Environment variables set on top of the parent's.
    cpus
        The CPUs it may run on, pinned before it imports anything (Linux).
    memory_limit
        Bytes of resident memory beyond which it is killed. Looked at every 50 ms while a call is
        waited for, so a faster allocation can overshoot.
    preload
        Modules to import right away, while the parent does something else.

    Raises
    ------
    ChildError
        It cannot be pinned to these CPUs.

    Examples
    --------
    >>> with Child() as child:
    ...     child.call("json:dumps", obj={"lines": [1, 2]})
    '{"lines": [1, 2]}'
    """

    def __init__(
        self,
        *,
        name: str = "worker",
        env: Mapping[str, str] | None = None,
        cpus: Sequence[int] | None = None,
        memory_limit: int | None = None,
        preload: Sequence[str] = (),
    ) -> None:
        self.name = name
        self._limit = memory_limit
        self._lock = threading.RLock()
        self._running: str | None = None
        self._paused = False
        self._killed = False
        self._timeout = math.inf
        self._deadline = math.inf
        self._looked = -math.inf
        self._log = Log()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = Process(
                    [sys.executable, "-P", "-c", _BOOT, *_arguments(theirs.fileno())],
                    env={**os.environ, **(env or {})},
                    keep=theirs.fileno(),
                    output=self._log.fileno(),
                )
            except BaseException:
                ours.close()
                self._log.close()
                raise
        ours.setblocking(False)
        self._connection = ours
        self._poll = {events: _poll(ours, events) for events in (select.POLLIN, select.POLLOUT)}
        # Also runs when this object is dropped and at interpreter exit.
        self._end = weakref.finalize(self, _end, self._process, ours, self._log, os.getpid())
        # A weak wait: a bound method would make a cycle and delay that until the next collection.
        self._wire = Wire(ours, _weakly(self))
        if cpus is not None:
            self._pin(cpus)
        hello = {"kind": "hello", "name": name, "preload": list(preload)}
        with contextlib.suppress(OSError, EOFError):  # dead already: the first call says so
            self._wire.send(encode(hello))

    def call(
        self,
        function: str,
        /,
        *,
        timeout: float | None = None,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        **params: Any,
    ) -> Any:
        """Run a function in the child and return its result.

        Parameters
        ----------
        function
            ``"package.module:name"``, imported in the child and called with ``params``. If it
            takes a parameter ``emit``, it is given a function that sends a dict to ``on_event``.
        timeout
            Seconds until the child is killed.
        on_event
            Called in this thread with each event as it arrives.

        Raises
        ------
        ChildFailed
            The function raised; the child can be called again.
        ChildDied, ChildTimeout, ChildOutOfMemory
            The child is gone.
        ChildError
            The call cannot be made: the child is paused or busy, or a value cannot travel.

        Notes
        -----
        Anything else that interrupts the call, such as Ctrl-C or an exception from ``on_event``,
        kills the child, which would otherwise answer a question nobody asks any more.
        """
        with self._lock:
            self._allow(timeout)
            self._begin(function, params)
            return self._finish(on_event)

    def start(self, function: str, /, **params: Any) -> None:
        """Begin a call without waiting for its result, as :meth:`call` otherwise."""
        with self._lock:
            self._allow(None)
            self._begin(function, params)

    def result(
        self,
        timeout: float | None = None,
        *,
        on_event: Callable[[dict[str, Any]], None] | None = None,
    ) -> Any:
        """Wait for the result of the call begun by :meth:`start`, as :meth:`call` otherwise.

        The timeout counts from here. Memory is watched only here, not between the two.
        """
        with self._lock:
            if self._running is None:
                raise ChildError(f"{self} has no call to finish", hint="call start() first")
            self._refuse_paused(self._running)
            self._allow(timeout)
            return self._finish(on_event)

    def pause(self) -> None:
        """Stop all its threads (SIGSTOP); returns once they stand."""
        self._paused = True
        self._process.pause()

    def resume(self) -> None:
        """Let all its threads go on (SIGCONT)."""
        self._process.resume()
        self._paused = False

    def rss(self) -> int:
        """Resident set size now, in bytes."""
        return self._measure(memory.rss)

    def peak_rss(self) -> int:
        """Largest resident set size so far, in bytes (where the system keeps none: now)."""
        return self._measure(memory.peak_rss)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can still be called."""
        return self._end.alive and self._process.alive

    def kill(self) -> None:
        """End it at once; a call that waits for it raises ChildDied."""
        self._killed = True
        self._process.kill()

    def close(self) -> None:
        """End it and free what it holds; may be called again."""
        if self._end.alive:
            self._killed = True
            if self._running is None and not self._paused:
                # A hint that it may leave by itself, with its exit handlers.
                with contextlib.suppress(OSError):
                    self._connection.shutdown(socket.SHUT_WR)
                self._process.wait(_GRACE)
            self._process.kill()  # wakes another thread that waits for it and so holds the lock
            with self._lock:
                self._end()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        return f"the child '{self.name}'"

    def _allow(self, timeout: float | None) -> None:
        self._timeout = math.inf if timeout is None else timeout
        self._deadline = time.monotonic() + self._timeout

    def _begin(self, function: str, params: dict[str, Any]) -> None:
        if not self._end.alive:
            raise ChildError(f"{self} is closed and cannot run {function}", hint="start another")
        if not all(function.partition(":")):
            raise ChildError(
                f"'{function}' does not name a function", hint="write it as package.module:name"
            )
        if self._running is not None:
            raise ChildError(
                f"{self} is busy with {self._running} and cannot start {function}",
                hint="fetch its result() first",
            )
        if not self._process.alive:
            raise self._death()
        self._refuse_paused(function)
        frame = encode({"kind": "call", "function": function, "params": params})
        self._running = function
        with self._guard():
            self._log.clear()
            self._wire.send(frame)

    def _finish(self, on_event: Callable[[dict[str, Any]], None] | None) -> Any:
        while True:
            with self._guard():
                self._look()  # a child that talks all the time is never waited for
                message = self._wire.receive()
            match message:
                case {"kind": "event", "event": event}:
                    if on_event is not None:
                        with self._or_kill():
                            on_event(event)
                case {"kind": "result", "value": value}:
                    self._running = None
                    return value
                case {"kind": "failure", **failure}:
                    self._running = None
                    raise ChildFailed(
                        error_type=failure["type"],
                        error_message=failure["message"],
                        error_bases=tuple(failure["bases"]),
                        traceback=failure["traceback"],
                        log=self._log.tail(),
                    )

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Turn the end of the connection into a reason, and leave no half-read frame behind."""
        try:
            with self._or_kill(unless=(EOFError, OSError, ValueError)):
                yield
        except (EOFError, OSError, ValueError):  # ValueError: closed by another thread
            death = self._death()
            self._running = None
            raise death from None

    @contextlib.contextmanager
    def _or_kill(self, unless: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
        try:
            yield
        except unless:
            raise
        except BaseException:
            self.kill()
            self._running = None
            raise

    def _wait(self, events: int) -> None:
        """Wait until the socket is ready, looking after the child meanwhile."""
        while True:
            self._look()
            longest = _NAP if self._limit is None else _GLANCE
            seconds = max(0.0, min(longest, self._deadline - time.monotonic()))
            if self._poll[events].poll(math.ceil(seconds * 1000)):
                return
            # Something it forked may hold its end of the socket open.
            if not self._process.alive and not self._poll[events].poll(0):
                raise EOFError

    def _look(self) -> None:
        """Raise if the time is up or the memory limit is passed."""
        now = time.monotonic()
        if now >= self._deadline:
            raise self._overdue()
        if now - self._looked < _GLANCE:
            return
        self._looked = now
        self._log.bound()
        if self._limit is not None:
            with contextlib.suppress(ProcessLookupError):
                held = memory.rss(self.pid)
                if held > self._limit:
                    raise self._overgrown(held, self._limit)

    def _overdue(self) -> ChildTimeout:
        self.kill()
        return ChildTimeout(
            f"{self} did not finish {self._running} within {self._timeout:g} s and was killed",
            log=self._log.tail(),
            seconds=self._timeout,
        )

    def _overgrown(self, held: int, limit: int) -> ChildOutOfMemory:
        self.kill()
        return ChildOutOfMemory(
            f"{self} held {held / 1e6:.0f} MB, more than its limit of {limit / 1e6:.0f} MB, "
            f"while running {self._running} and was killed",
            rss=held,
            limit=limit,
            log=self._log.tail(),
        )

    def _death(self) -> ChildDied:
        """Why the connection ended."""
        code = self._process.wait(_GRACE)
        log = self._log.tail()
        doing = f" while running {self._running}" if self._running else ""
        if code is None:
            self.kill()
            return ChildDied(f"{self} hung up{doing} and was killed", log=log)
        if self._killed:
            return ChildDied(f"{self} was killed{doing}", log=log, signal="SIGKILL")
        return ChildDied.after(code, f"{self}", doing, log)

    def _refuse_paused(self, function: str) -> None:
        if self._paused:
            raise ChildError(f"{self} is paused and cannot run {function}", hint="resume() it")

    def _measure(self, read: Callable[[int], int]) -> int:
        try:
            if not self.alive:
                raise ProcessLookupError
            return read(self.pid)
        except ProcessLookupError:
            raise self._death() from None

    def _pin(self, cpus: Sequence[int]) -> None:
        # From here rather than inside, so that the error reaches the caller. The child still waits
        # for our first message and has a single thread, so all that follows inherits the mask.
        if sys.platform != "linux":
            self._end()
            raise ChildError(f"{self} cannot be pinned to CPUs on {sys.platform}", hint="omit cpus")
        try:
            os.sched_setaffinity(self.pid, cpus)
        except (OSError, ValueError) as error:
            self._end()
            raise ChildError(
                f"{self} cannot be pinned to the CPUs {list(cpus)}: {error}",
                hint=f"choose among {sorted(os.sched_getaffinity(0))}",
            ) from error


def _end(process: Process, connection: socket.socket, log: Log, owner: int) -> None:
    if os.getpid() == owner:  # a fork of the parent must not kill the parent's children
        process.kill()
    connection.close()
    log.close()


def _weakly(child: Child) -> Callable[[int], None]:
    reference = weakref.ref(child)

    def wait(events: int) -> None:
        alive = reference()
        if alive is not None:
            alive._wait(events)

    return wait


def _poll(connection: socket.socket, events: int) -> select.poll:
    poll = select.poll()
    poll.register(connection, events)
    return poll


def _arguments(descriptor: int) -> list[str]:
    path = [str(entry or Path.cwd()) for entry in sys.path]
    return [str(descriptor), str(os.getpid()), *path]
