"""Functions that the tests of this room run inside children; the parent never imports them."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np


class CustomError(ValueError):
    pass


def echo(value):
    return value


def describe(array):
    return {
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "sum": float(array.sum()),
        "writeable": array.flags.writeable,
    }


def type_name(value):
    return type(value).__name__


def double_in_place(array):
    array *= 2
    return array


def fail(message):
    raise CustomError(message)


def leave(code):
    sys.exit(code)


def objects():
    return np.array([object()])


def segfault():
    ctypes.string_at(0)


def exit_now(code):
    print("a farewell", flush=True)
    os._exit(code)


def signal_self(name):
    os.kill(os.getpid(), getattr(signal, name))
    time.sleep(30)


def sleep(seconds):
    time.sleep(seconds)
    return seconds


def meet(mine, theirs):
    """Return once the other side is here too; True unless it never came."""
    Path(mine).touch()
    give_up = time.monotonic() + 60
    while not Path(theirs).exists() and time.monotonic() < give_up:
        time.sleep(0.005)
    return Path(theirs).exists()


def begin_and_sleep(emit):
    emit({"began": True})
    time.sleep(60)


def allocate(megabytes):
    held = []
    for _ in range(megabytes // 10):
        held.append(np.ones(10 * 2**20, np.uint8))
        time.sleep(0.005)
    time.sleep(30)
    return len(held)


def hold_briefly(megabytes):
    return int(np.ones(megabytes * 2**20, np.uint8)[-1])


def count_in_background(path):
    """Append a byte to a file every millisecond, from a thread that outlives the call."""

    def count():
        with Path(path).open("ab", buffering=0) as file:
            while True:
                file.write(b".")
                time.sleep(0.001)

    threading.Thread(target=count, daemon=True).start()


def stream(count, emit):
    for index in range(count):
        emit({"index": index, "data": np.full(2, index)})
    return "done"


def flood(emit):
    while True:
        emit({"still": "here"})


def emit_later(emit):
    def late():
        time.sleep(0.3)
        emit({"too": "late"})

    threading.Thread(target=late).start()


def shout(words):
    print(words)
    print(words, file=sys.stderr)
    os.write(1, words.encode())
    os.system(f"echo {words}")


def half_a_frame():
    os.write(_socket(), b"strp\xff\x00\x00\x00{")
    os._exit(0)


def nonsense():
    os.write(_socket(), b"GET / HTTP/1.1\r\n\r\n")


def hang_up():
    os.close(_socket())
    time.sleep(30)


def die_leaving_a_fork():
    """A forked process keeps our end of the socket open."""
    if os.fork():
        os._exit(7)
    time.sleep(30)


def die_leaving_a_subprocess(path):
    Path(path).write_text(str(subprocess.Popen(["sleep", "60"]).pid))
    os._exit(7)


def process():
    return {
        "pid": os.getpid(),
        "cpus": sorted(os.sched_getaffinity(0)),
        "session": os.getsid(0),
        "value": os.environ.get("STROP_TEST_VALUE"),
    }


def _socket():
    """The descriptor of the child's connection, which is its only socket."""
    (found,) = (entry for entry in Path("/proc/self/fd").iterdir() if entry.is_socket())
    return int(found.name)
