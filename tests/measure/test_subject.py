from __future__ import annotations

import os
import time
from dataclasses import replace

import numpy as np
import pytest

from strop.measure import Conditions, Subject, batch_size, granted_cpus
from strop.measure.subject import Warmth
from strop.workers import ChildDied, ChildFailed, ChildTimeout

FAKE = Conditions(loader="fakes:load")


def _size_after(path, seconds: float) -> int:
    time.sleep(seconds)
    return path.stat().st_size


def test_it_makes_no_progress_while_nobody_times_it(fake, inputs, tmp_path) -> None:
    path = tmp_path / "ticks"
    with Subject("one", fake(spans=str(path)), inputs, conditions=FAKE) as subject:
        subject.load()
        before = path.stat().st_size
        assert _size_after(path, 0.2) == before
        end = time.monotonic() + 60
        while path.stat().st_size == before and time.monotonic() < end:
            subject.block(0.2)
        after = path.stat().st_size
        assert after > before
        assert _size_after(path, 0.2) == after


def test_a_block_lasts_as_long_and_as_many_calls_as_asked(fake, inputs) -> None:
    with Subject("one", fake(sleep=0.001), inputs, conditions=FAKE) as subject:
        subject.load()
        times = subject.block(0.05)
        assert times.dtype == np.float64 and times.ndim == 1
        assert times.sum() >= 0.05 and (times >= 0.001).all()
        assert len(subject.block(0.0, calls=7)) >= 7


def test_warming_up_is_bounded_and_says_whether_it_settled(fake, inputs) -> None:
    with Subject("one", fake(takes=0.001), inputs, conditions=FAKE) as subject:
        subject.load()
        # Three windows of 20 ms: two were no faster than the one before them.
        assert subject.warm(30.0) == Warmth(calls=60, seconds=0.001, settled=True)
        assert subject.warm(0.0) == Warmth(calls=1, seconds=0.001, settled=False)


def test_it_is_pinned_and_told_its_threads(fake, inputs, tmp_path) -> None:
    path = tmp_path / "environment"
    cpu = granted_cpus()[-1]
    spec = fake(threads=3, environment=str(path))
    with Subject("one", spec, inputs, conditions=replace(FAKE, cpus=[cpu])) as subject:
        subject.load()
        assert path.read_text() == f"3 {cpu}"
        assert os.sched_getaffinity(subject.pid) == {cpu}
    with Subject("one", spec, inputs, conditions=FAKE) as subject:
        assert os.sched_getaffinity(subject.pid) == set(granted_cpus())


def test_a_payload_arrives_as_it_was(fake, inputs, tmp_path) -> None:
    path = tmp_path / "payload"
    payload = bytes(range(256))
    spec = fake(payload=str(path))
    with Subject("one", spec, inputs, payload=payload, conditions=FAKE) as subject:
        subject.load()
    assert path.read_bytes() == payload


def test_a_failure_leaves_it_alive_and_still(fake, inputs) -> None:
    with Subject("one", fake(fail_at=1), inputs, conditions=FAKE) as subject:
        subject.load()
        with pytest.raises(ChildFailed, match="the call failed"):
            subject.block(0.0)
        assert subject.alive
        assert len(subject.block(0.0)) == 3


def test_a_crash_and_a_hang_end_it(fake, inputs) -> None:
    with Subject("one", fake(die_at=1), inputs, conditions=FAKE) as subject:
        subject.load()
        with pytest.raises(ChildDied, match="SIGABRT"):
            subject.block(0.0)
        assert not subject.alive
    with Subject("two", fake(hang_at=1), inputs, conditions=FAKE) as subject:
        subject.load()  # may take long on a busy machine
        subject._patience = 0.2
        with pytest.raises(ChildTimeout):
            subject.warm(0.0)
        assert not subject.alive


def test_the_deadline_ends_a_call_that_patience_would_wait_for(fake, inputs) -> None:
    with Subject("one", fake(hang_at=1), inputs, conditions=replace(FAKE, patience=1e6)) as subject:
        subject.load()
        subject._deadline = time.monotonic() + 0.2
        with pytest.raises(ChildTimeout):
            subject.block(0.0)


def test_batch_size_is_the_first_dimension() -> None:
    assert batch_size({"s": np.float32(1).reshape(()), "x": np.zeros((8, 2))}) == 8
    assert batch_size({}) == 1
