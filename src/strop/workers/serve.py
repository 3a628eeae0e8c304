"""What runs inside a child: wait for a call, answer it, until the parent hangs up.

Only the standard library is imported before the first call.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import io
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from strop.workers.wire import Wire, encode

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_NAME = 15


def main(descriptor: int, parent: int) -> None:
    """Serve the parent at the other end of an inherited socket.

    Parameters
    ----------
    descriptor
        The socket.
    parent
        Process id of the parent, whose death ends this process.
    """
    _die_with(parent)
    _prepare_for_crashes()
    # Whatever a handler starts must not hold the socket open after this process.
    os.set_inheritable(descriptor, False)
    with socket.socket(fileno=descriptor) as connection:
        wire = Wire(connection)
        with contextlib.suppress(EOFError, ConnectionError):  # the parent hung up
            while True:
                _handle(wire.receive(), wire)


def _handle(message: dict[str, Any], wire: Wire) -> None:
    match message:
        case {"kind": "hello", "name": name, "preload": preload}:
            _rename(name)
            for module in preload:
                try:
                    importlib.import_module(module)
                except Exception:  # only a head start: the call that needs it will say so
                    traceback.print_exc()
        case {"kind": "call", "function": function, "params": params}:
            _answer(function, params, wire)
        case _:
            pass  # from a later parent


def _answer(function: str, params: dict[str, Any], wire: Wire) -> None:
    lock = threading.Lock()  # handlers may emit from threads of their own
    answered = False

    def emit(event: dict[str, Any]) -> None:
        frame = encode({"kind": "event", "event": event})
        with lock:
            if not answered:
                wire.send(frame)

    try:
        handler = _find(function)
        if "emit" not in params and _takes_emit(handler):
            params["emit"] = emit
        answer = encode({"kind": "result", "value": handler(**params)})
    except BaseException as error:
        answer = encode(
            {
                "kind": "failure",
                "type": type(error).__name__,
                "bases": [base.__name__ for base in type(error).__mro__],
                "message": _text(error),
                "traceback": "".join(traceback.format_exception(error)),
            }
        )
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    with lock:
        answered = True
        wire.send(answer)


def _find(function: str) -> Callable[..., Any]:
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _takes_emit(handler: Callable[..., Any]) -> bool:
    import inspect

    try:
        return "emit" in inspect.signature(handler).parameters
    except (TypeError, ValueError):  # some built-in functions have no signature
        return False


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(its message cannot be shown)"


def _prepare_for_crashes() -> None:
    faulthandler.enable()  # a segfault leaves the Python stack in the log
    import resource

    # A crash is an answer here; a core file of a loaded model is only gigabytes and seconds.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def _watch(parent: int) -> None:
    import time

    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _rename(name: str) -> None:
    if sys.platform == "linux":  # seen in top and ps, which show 15 bytes
        import ctypes

        _prctl(_PR_SET_NAME, ctypes.c_char_p(f"strop-{name}".encode()[:15]))


def _prctl(option: int, value: Any) -> None:
    import ctypes

    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
