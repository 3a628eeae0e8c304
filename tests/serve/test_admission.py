from __future__ import annotations

import numpy as np
import pytest

from strop.serve.admission import Admission

from .test_curve import linear


def test_an_idle_worker_answers_after_one_batch() -> None:
    admission = Admission(linear(), workers=1)
    assert admission.completion(5.0, 0.0, 0, 1) == pytest.approx(5.0 + 0.0025)


def test_rows_ahead_take_rounds_and_the_own_batch_is_taken_to_be_full() -> None:
    admission = Admission(linear(), workers=1)
    busy = admission.completion(0.0, 0.01, rows_ahead=5, rows=1)
    assert busy == pytest.approx(0.01 + 0.018)
    behind = admission.completion(0.0, 0.01, rows_ahead=64, rows=1)
    assert behind == pytest.approx(0.01 + 3 * 0.018)
    assert Admission(linear(), workers=3).completion(0.0, 0.01, 64, 1) == pytest.approx(busy)


def test_completion_never_falls_with_more_ahead() -> None:
    admission = Admission(linear(), workers=2, slo=0.05)
    times = [admission.completion(0.0, 0.01, ahead, 1) for ahead in range(300)]
    assert all(np.diff(times) >= -1e-12)


def test_the_margin_settles_where_few_answers_are_late() -> None:
    admission = Admission(linear(), workers=1)
    rng = np.random.default_rng(0)
    late = 0
    for number, error in enumerate(0.004 * np.exp(0.3 * rng.standard_normal(5000))):
        late += number >= 200 and error > admission.margin
        admission.learn(0.0, float(error))
    assert 0.005 < late / 4800 < 0.015  # one in a hundred, and not two
    assert 0.004 < admission.margin < 0.02


def test_the_margin_is_the_second_largest_of_the_newest_200_errors() -> None:
    admission = Admission(linear(), workers=1)
    errors = np.random.default_rng(1).integers(0, 50, 1000) / 1000.0  # many of them equal
    for count, error in enumerate(errors, 1):
        admission.learn(0.0, float(error))
        newest = sorted(errors[max(0, count - 200) : count])
        assert admission.margin == newest[-2 if count >= 100 else -1]


def test_what_is_answered_early_makes_no_negative_margin() -> None:
    admission = Admission(linear(), workers=1)
    for _ in range(200):
        admission.learn(1.0, 0.5)
    assert admission.margin == 0.0


def test_one_stall_does_not_close_the_door_and_is_forgotten() -> None:
    admission = Admission(linear(), workers=1, slo=0.1)
    admission.learn(0.0, 60.0)
    assert admission.margin == pytest.approx(0.04)
    for _ in range(100):
        admission.learn(0.0, 0.007)
    assert admission.margin == 0.007


def test_whatever_went_wrong_a_full_batch_may_wait_for_the_one_that_runs() -> None:
    """At the largest margin, too; else idle workers alone would get anything, a row at a time."""
    slo = 0.03
    curve = linear()
    admission = Admission(curve, workers=1, slo=slo)
    admission.saw(30.0)
    admission.learn(0.0, 60.0)
    cap = curve.cap_for(slo - admission.reserve)
    assert cap > 8
    running = curve.p50(cap)
    for ahead in range(cap):
        assert admission.completion(0.0, running, ahead, 1) + admission.reserve <= slo


def test_drain_seconds() -> None:
    admission = Admission(linear(), workers=1)
    assert admission.drain_seconds(0) == 0.0
    assert admission.drain_seconds(320) == pytest.approx(10 * 0.018)


def test_what_was_read_after_a_pause_may_be_as_old_as_the_pause() -> None:
    admission = Admission(linear(), workers=1, slo=0.1)
    assert admission.reached(7.0) == 7.0
    admission.unread(since=7.0, until=7.004)
    assert admission.reached(7.0041) == 7.0
    assert admission.reached(7.1) == 7.1
