from __future__ import annotations

import ctypes
import os
import threading

import pytest

from strop.serve import slices


def of_this_thread() -> tuple[int, ...]:
    buffer = ctypes.create_string_buffer(slices._ATTRIBUTES.size)
    thread = threading.get_native_id()
    assert ctypes.CDLL(None).syscall(slices._GET, thread, buffer, len(buffer), 0) == 0
    return slices._ATTRIBUTES.unpack(buffer.raw)


def on_a_thread(found: list[object], *work: object) -> None:
    def run() -> None:
        found.extend(it() for it in work)  # type: ignore[operator]

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


@pytest.mark.skipif(not slices._SET, reason="Linux on a machine whose calls are known")
def test_short_turns_change_nothing_else_and_are_not_handed_down() -> None:
    before = of_this_thread()
    found: list[object] = []

    def child() -> tuple[int, ...]:
        inner: list[object] = []
        on_a_thread(inner, of_this_thread)
        return inner[0]  # type: ignore[return-value]

    on_a_thread(found, slices.take_short_turns, of_this_thread, child)
    taken, after, handed_down = found
    if not taken:
        pytest.skip("this kernel or container does not allow it")
    assert isinstance(after, tuple) and isinstance(handed_down, tuple)
    assert (after[1], after[3], after[4]) == (before[1], before[3], before[4])  # policy, priority
    assert after[5] in (slices._SLICE, 0)  # kernels before 6.12 forget it
    assert handed_down[1:] == before[1:]
    assert of_this_thread() == before


def test_a_raised_priority_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpriority", lambda which, who: -5)
    assert not slices.take_short_turns()


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices.sys, "platform", "darwin")
    assert not slices.take_short_turns()
