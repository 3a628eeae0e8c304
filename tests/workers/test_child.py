from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strop.workers import (
    Child,
    ChildDied,
    ChildError,
    ChildFailed,
    ChildOutOfMemory,
    ChildTimeout,
)


def test_values_and_arrays_travel_both_ways(child: Child) -> None:
    value = {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b": [1, None, "x", 2.5, True]}
    arrived = child.call("handlers:echo", value=value)
    np.testing.assert_array_equal(arrived["a"], value["a"])
    assert arrived["a"].dtype == np.int16
    assert arrived["b"] == value["b"]
    assert child.call("handlers:type_name", value=Path("/x")) == "str"
    assert child.call("handlers:describe", array=np.ones((2, 3), np.float16)) == {
        "dtype": "float16",
        "shape": [2, 3],
        "sum": 6.0,
        "writeable": True,
    }


def test_arrays_larger_than_the_socket_buffer_travel(child: Child) -> None:
    array = np.arange(3_000_000, dtype=np.float32)
    doubled = child.call("handlers:double_in_place", array=array, timeout=200)
    np.testing.assert_array_equal(doubled, array * 2)


def test_one_process_answers_every_call(child: Child) -> None:
    pids = {child.call("handlers:process")["pid"] for _ in range(3)}
    assert pids == {child.pid}
    assert child.pid != os.getpid()


def test_a_failure_is_reported_and_survived(child: Child) -> None:
    with pytest.raises(ChildFailed, match="CustomError: no such layer") as caught:
        child.call("handlers:fail", message="no such layer")
    assert caught.value.error_type == "CustomError"
    assert caught.value.error_message == "no such layer"
    assert "ValueError" in caught.value.error_bases
    assert "in fail" in caught.value.traceback
    assert "Traceback" not in str(caught.value)
    assert child.call("handlers:echo", value=1) == 1


@pytest.mark.parametrize(
    ("function", "params", "error_type"),
    [
        ("handlers:absent", {}, "AttributeError"),
        ("no_such_module:f", {}, "ModuleNotFoundError"),
        ("handlers:echo", {"unknown": 1}, "TypeError"),
        ("handlers:objects", {}, "ChildError"),
        ("handlers:leave", {"code": 3}, "SystemExit"),
    ],
)
def test_calls_that_cannot_be_answered_fail(
    child: Child, function: str, params: dict[str, Any], error_type: str
) -> None:
    with pytest.raises(ChildFailed) as caught:
        child.call(function, **params)
    assert caught.value.error_type == error_type
    assert child.alive


def test_what_cannot_travel_leaves_the_child_alone(child: Child) -> None:
    with pytest.raises(ChildError, match="dtype object"):
        child.call("handlers:echo", value=np.array([None]))
    with pytest.raises(ChildError, match=r"package\.module:name"):
        child.call("handlers.echo", value=1)
    assert child.call("handlers:echo", value=1) == 1


def test_a_segfault_is_named(child: Child) -> None:
    with pytest.raises(ChildDied, match=r"'test' died with SIGSEGV while running") as caught:
        child.call("handlers:segfault")
    assert caught.value.signal == "SIGSEGV"
    assert caught.value.exit_code is None
    assert "in segfault" in caught.value.log  # faulthandler's stack
    assert not child.alive


def test_an_exit_is_named_with_the_last_words(child: Child) -> None:
    with pytest.raises(ChildDied, match=r"exit code 41 .*a farewell") as caught:
        child.call("handlers:exit_now", code=41)
    assert caught.value.exit_code == 41
    with pytest.raises(ChildDied, match="exit code 41"):
        child.call("handlers:echo", value=1)
    with pytest.raises(ChildDied):
        child.rss()


def test_a_kill_from_outside_hints_at_memory(child: Child) -> None:
    with pytest.raises(ChildDied, match=r"SIGKILL \(possibly the system ran out of memory\)"):
        child.call("handlers:signal_self", name="SIGKILL")


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("handlers:half_a_frame", "exit code 0"),
        ("handlers:die_leaving_a_fork", "exit code 7"),
    ],
)
def test_a_broken_connection_is_a_death(child: Child, function: str, reason: str) -> None:
    with pytest.raises(ChildDied, match=reason):
        child.call(function)
    assert not child.alive


def test_a_child_that_hangs_up_and_stays_is_killed(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strop.workers.child._GRACE", 0.5)
    with pytest.raises(ChildDied, match="hung up"):
        child.call("handlers:hang_up")
    assert not child.alive


def test_nonsense_on_the_wire_ends_the_child(child: Child) -> None:
    with pytest.raises(ChildError, match="expected a frame"):
        child.call("handlers:nonsense", timeout=200)
    assert not child.alive


def test_processes_left_behind_are_killed(
    child: Child, tmp_path: Path, gone: Callable[[int], bool]
) -> None:
    with pytest.raises(ChildDied, match="exit code 7"):
        child.call("handlers:die_leaving_a_subprocess", path=tmp_path / "pid", timeout=200)
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_timeout_kills(child: Child, gone: Callable[[int], bool]) -> None:
    began = time.monotonic()
    with pytest.raises(ChildTimeout, match=r"handlers:sleep within 0.4 s"):
        child.call("handlers:sleep", seconds=60, timeout=0.4)
    assert time.monotonic() - began >= 0.4
    assert gone(child.pid)
    with pytest.raises(ChildDied, match="was killed"):
        child.call("handlers:echo", value=1)


def test_a_child_that_talks_all_the_time_still_times_out(child: Child) -> None:
    with pytest.raises(ChildTimeout):
        child.call("handlers:flood", timeout=0.5)


def test_too_much_memory_kills(gone: Callable[[int], bool]) -> None:
    with Child(memory_limit=200 * 2**20) as child:
        assert child.call("handlers:hold_briefly", megabytes=10) == 1
        with pytest.raises(ChildOutOfMemory, match="more than its limit of 210 MB") as caught:
            child.call("handlers:allocate", megabytes=300, timeout=200)
        assert caught.value.rss > caught.value.limit == 200 * 2**20
        assert gone(child.pid)


def test_memory_is_measured(child: Child) -> None:
    child.call("handlers:echo", value=1)
    before = child.rss()
    child.call("handlers:hold_briefly", megabytes=100)
    assert child.peak_rss() - before > 90e6
    assert 5e6 < child.rss() < child.peak_rss()


def test_pause_stops_every_thread_and_resume_lets_them_go_on(child: Child, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.touch()
    child.call("handlers:count_in_background", path=counter)

    def grows_within(seconds: float) -> bool:
        size, give_up = counter.stat().st_size, time.monotonic() + seconds
        while time.monotonic() < give_up:
            if counter.stat().st_size > size:
                return True
            time.sleep(0.005)
        return False

    assert grows_within(60)
    child.pause()
    assert not grows_within(0.2)
    assert child.alive
    with pytest.raises(ChildError, match="is paused"):
        child.call("handlers:echo", value=1)
    child.resume()
    assert grows_within(60)
    assert child.call("handlers:echo", value=1) == 1


def test_a_paused_child_closes(
    gone: Callable[[int], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    # It cannot leave by itself: were it given time to, this would not end.
    monkeypatch.setattr("strop.workers.child._GRACE", 1e6)
    child = Child()
    child.call("handlers:echo", value=1)
    child.pause()
    child.close()
    child.close()
    assert gone(child.pid)
    assert not child.alive
    with pytest.raises(ChildError, match="is closed"):
        child.call("handlers:echo", value=1)


def test_events_arrive_in_order_before_the_result(child: Child) -> None:
    events: list[dict[str, Any]] = []
    assert child.call("handlers:stream", count=5, on_event=events.append) == "done"
    assert [event["index"] for event in events] == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(events[3]["data"], [3, 3])
    assert child.call("handlers:stream", count=5) == "done"


def test_events_after_the_result_are_dropped(child: Child) -> None:
    events: list[dict[str, Any]] = []
    child.call("handlers:emit_later", on_event=events.append)
    child.call("handlers:sleep", seconds=0.6, on_event=events.append)
    assert events == []


def test_an_interrupted_call_kills_the_child(child: Child) -> None:
    def interrupt(event: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        child.call("handlers:stream", count=5, on_event=interrupt)
    assert not child.alive


def test_prints_never_reach_our_output(child: Child, capfd: pytest.CaptureFixture[str]) -> None:
    child.call("handlers:shout", words="HELLO")
    with pytest.raises(ChildFailed) as caught:
        child.call("handlers:fail", message="")
    assert "HELLO" not in caught.value.log  # the log is of one call
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_two_children_work_at_once(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    with Child(name="a") as first, Child(name="b") as second:
        first.start("handlers:meet", mine=here, theirs=there)
        with pytest.raises(ChildError, match="busy with handlers:meet"):
            first.call("handlers:echo", value=1)
        second.start("handlers:meet", mine=there, theirs=here)
        assert second.result() is True
        assert first.result() is True
        with pytest.raises(ChildError, match="no call to finish"):
            first.result()


def test_the_environment_is_merged_and_the_cpus_pinned() -> None:
    cpu = max(os.sched_getaffinity(0))
    with Child(env={"STROP_TEST_VALUE": "7"}, cpus=[cpu]) as child:
        process = child.call("handlers:process")
    assert process["value"] == "7"
    assert process["cpus"] == [cpu]
    assert process["session"] == child.pid  # Ctrl-C in our terminal does not reach it


def test_cpus_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ChildError, match=r"cannot be pinned to the CPUs \[100000\]"):
        Child(cpus=[100_000])


def test_startup_imports_neither_numpy_nor_more_than_it_must(child: Child) -> None:
    modules = child.call("bare:modules")
    assert "numpy" not in modules
    assert "pydantic" not in modules
    assert "multiprocessing" not in modules


def test_preload_imports_and_forgives() -> None:
    with Child(preload=["no_such_module", "fractions"]) as child:
        modules = child.call("bare:modules")
    assert "fractions" in modules


def test_a_child_outlives_the_thread_that_started_it() -> None:
    started: list[Child] = []

    def start() -> None:
        started.append(Child())
        started[0].call("handlers:echo", value=1)  # by now its parent-death signal is set

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    with started[0] as child:
        time.sleep(0.2)
        assert child.call("handlers:echo", value=2) == 2


@pytest.mark.parametrize("end", [Child.kill, Child.close])
def test_another_thread_may_kill_or_close(child: Child, end: Callable[[Child], None]) -> None:
    other = threading.Thread(target=end, args=[child])
    with pytest.raises(ChildDied, match="was killed while running handlers:begin"):
        child.call("handlers:begin_and_sleep", on_event=lambda event: other.start())
    other.join()


def test_a_forgotten_child_ends(gone: Callable[[int], bool]) -> None:
    child = Child()
    pid = child.pid
    del child
    gc.collect()
    assert gone(pid)


PARENT = """
    import sys, time
    sys.path.insert(0, sys.argv[1])
    from strop.workers import Child
    child = Child()
    child.call("handlers:echo", value=1)
    if sys.argv[2] == "busy":
        child.start("handlers:sleep", seconds=60)
    print(child.pid, flush=True)
    if sys.argv[2] != "exit":
        time.sleep(60)
"""


def spawn_parent(mode: str) -> tuple[subprocess.Popen[str], int]:
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", textwrap.dedent(PARENT), here, mode]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout as stdout:
        return parent, int(stdout.readline())


@pytest.mark.parametrize("mode", ["idle", "busy"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_dies_with_its_parent(
    mode: str, number: signal.Signals, gone: Callable[[int], bool]
) -> None:
    parent, pid = spawn_parent(mode)
    assert Path(f"/proc/{pid}").exists()
    parent.send_signal(number)
    parent.wait()
    assert gone(pid)


def test_a_parent_that_exits_takes_its_child_along(gone: Callable[[int], bool]) -> None:
    parent, pid = spawn_parent("exit")
    assert parent.wait(60) == 0
    assert gone(pid)


def test_no_zombies_and_no_descriptors_are_left() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    for code in (1, 2, 3):
        child = Child()
        with pytest.raises(ChildDied):
            child.call("handlers:exit_now", code=code)
        child.close()
        assert not Path(f"/proc/{child.pid}").exists()
    assert descriptors() == before
