"""One spawned process with whatever it starts, signalled and reaped as a group."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_PATIENCE = 5.0  # seconds until a killed process must be gone, or stuck inside the kernel


class Process:
    """A process in a session of its own: Ctrl-C in the terminal does not reach it.

    Parameters
    ----------
    arguments
        The command line.
    env
        The whole environment.
    keep
        A descriptor that it inherits.
    output
        A descriptor that its stdout and stderr go to.
    """

    def __init__(
        self, arguments: Sequence[str], *, env: Mapping[str, str], keep: int, output: int
    ) -> None:
        self._swept = False
        self._popen: subprocess.Popen[bytes] = _on_lasting_thread(
            lambda: subprocess.Popen(
                arguments,
                env=env,
                pass_fds=(keep,),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        )

    @property
    def pid(self) -> int:
        """Process id, and the id of its group."""
        return self._popen.pid

    @property
    def alive(self) -> bool:
        """Whether it runs, or is paused."""
        if self._popen.poll() is None:
            return True
        self._sweep()
        return False

    def pause(self) -> None:
        """Stop every thread, and return when they stand."""
        self._signal(signal.SIGSTOP)
        give_up = time.monotonic() + 1.0
        while self.alive and not self._stands() and time.monotonic() < give_up:
            time.sleep(0.0005)

    def resume(self) -> None:
        """Let every thread go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it and its children now; a paused one too."""
        if self._popen.poll() is None:
            self._signal(signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(_PATIENCE)
        self._sweep()

    def wait(self, patience: float) -> int | None:
        """Exit code, or minus the signal's number; None if it still runs after so many seconds."""
        try:
            code = self._popen.wait(patience)
        except subprocess.TimeoutExpired:
            return None
        self._sweep()
        return code

    def _signal(self, number: int) -> None:
        if self._popen.returncode is None:  # not reaped, so the id is still its own
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def _sweep(self) -> None:
        """Kill, once, the processes it left behind."""
        if not self._swept:
            self._swept = True
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def _stands(self) -> bool:
        if sys.platform == "linux":
            # Reported once all threads have stopped; WNOWAIT leaves the reaping to Popen.
            options = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
            with contextlib.suppress(ChildProcessError):
                return os.waitid(os.P_PID, self.pid, options) is not None
            return True
        else:
            import psutil

            with contextlib.suppress(psutil.NoSuchProcess):
                return bool(psutil.Process(self.pid).status() == psutil.STATUS_STOPPED)
            return True


# A parent-death signal fires when the *thread* that spawned the child ends (prctl(2)). Whatever
# another thread spawns, one that lasts as long as the process therefore spawns for it.
_requests: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
_spawner_of: int | None = None
_spawner_lock = threading.Lock()


def _on_lasting_thread(spawn: Callable[[], Any]) -> Any:
    if threading.current_thread() is threading.main_thread():
        return spawn()
    _start_spawner()
    answer: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def request() -> None:
        try:
            answer.put((spawn(), None))
        except BaseException as error:
            answer.put((None, error))

    _requests.put(request)
    spawned, error = answer.get()
    if error is not None:
        raise error
    return spawned


def _start_spawner() -> None:
    global _spawner_of
    with _spawner_lock:
        # None yet, or it stayed behind in the process that we were forked from.
        if _spawner_of != os.getpid():
            _spawner_of = os.getpid()
            threading.Thread(target=_spawn_forever, name="strop-spawner", daemon=True).start()


def _spawn_forever() -> None:
    while True:
        _requests.get()()
