from __future__ import annotations

import math

import numpy as np
import pytest

from strop.records.manifest import BatchLatency
from strop.serve.curve import LatencyCurve


def linear(limit: int = 32, fixed: float = 0.002, a_row: float = 0.0005) -> LatencyCurve:
    points = [
        BatchLatency(
            batch=size, p50_seconds=fixed + a_row * size, p99_seconds=1.2 * (fixed + a_row * size)
        )
        for size in (1, 2, 4, 8, 16, 32)
    ]
    return LatencyCurve(limit, points)


def test_recorded_points_are_interpolated_and_extended() -> None:
    curve = linear(64)
    assert curve.p50(1) == pytest.approx(0.0025)
    assert curve.p50(24) == pytest.approx(0.014)
    assert curve.p50(64) == pytest.approx(2 * curve.p50(32))
    assert curve.p99(8) == pytest.approx(1.2 * curve.p50(8))


def test_observations_replace_what_was_recorded() -> None:
    curve = linear()
    rng = np.random.default_rng(0)
    for seconds in 0.050 * np.exp(0.1 * rng.standard_normal(400)):
        curve.observe(8, float(seconds))
    assert curve.p50(8) == pytest.approx(0.050, rel=0.05)
    assert curve.p99(8) == pytest.approx(0.050 * math.exp(0.1 * 2.33), rel=0.12)
    # Sizes that have not been seen are taken to be as much slower than recorded as those that have.
    assert curve.p50(32) == pytest.approx(0.018 * 0.050 / 0.006, rel=0.1)


def test_a_size_off_the_grid_counts_for_its_neighbour() -> None:
    curve = linear()
    for _ in range(50):
        curve.observe(15, 2 * (0.002 + 0.0005 * 15))
    assert curve.p50(16) == pytest.approx(2 * 0.010, rel=0.01)


def test_it_follows_a_change_within_a_window_and_stays_bounded() -> None:
    curve = linear()
    for _ in range(1000):
        curve.observe(1, 0.01)
    for _ in range(201):
        curve.observe(1, 0.001)
    assert curve.p99(1) == pytest.approx(0.001)
    assert sum(len(window) for window in curve._windows) == 200


def test_the_median_follows_a_slower_machine_within_some_batches() -> None:
    curve = linear()
    for _ in range(1000):
        curve.observe(8, 0.001)
    for _ in range(24):  # the curve is drawn anew every 0.1 s of batches
        curve.observe(8, 0.02)
    assert curve.p50(8) == curve.p99(8) == 0.02


@pytest.mark.parametrize("recorded", [True, False])
def test_a_size_measured_on_a_bad_day_gets_another_chance(recorded: bool) -> None:
    """Who looks too slow to be run would otherwise never be seen to be quick again."""
    curve = linear() if recorded else LatencyCurve(32)
    for size in curve.sizes:
        curve.observe(size, (0.002 + 0.0005 * size) * (20.0 if size > 4 else 1.0))
    assert curve.best_size(1000) == 4
    for _ in range(1200):
        curve.observe(4, 0.004)
    assert curve.p50(4) == 0.004
    assert curve.p50(32) == pytest.approx(0.018 if recorded else 8 * 0.004)
    assert curve.best_size(1000) == 32
    curve.observe(32, 0.4)  # it is as bad as it looked
    assert curve.p50(32) == 0.4
    assert curve.best_size(1000) < 32


def test_nothing_known_means_zeros_and_the_largest_batch() -> None:
    curve = LatencyCurve(8)
    assert not curve.known
    assert curve.p99(8) == 0.0
    assert curve.best_size(100) == 8
    assert curve.best_size(3) == 3
    curve.observe(1, 0.25)
    assert curve.known
    assert curve.p50(1) == 0.25


def test_the_queue_is_shared_among_idle_workers() -> None:
    curve = linear(fixed=0.0)
    assert curve.best_size(8, workers=2) == 4
    assert linear(fixed=0.1).best_size(8, workers=1) == 8


def test_a_curve_that_bends_up_is_not_followed_up() -> None:
    points = [
        BatchLatency(batch=size, p50_seconds=seconds, p99_seconds=seconds)
        for size, seconds in ((1, 0.001), (8, 0.002), (16, 0.02), (32, 0.08))
    ]
    curve = LatencyCurve(32, points)
    assert curve.best_size(1000) == 8
    assert curve.best_size(16) == 8


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 32, 100])
def test_sizes_stay_within_the_limit(limit: int) -> None:
    curve = linear(limit)
    for rows in range(1, 3 * limit):
        for workers in (1, 2, 3):
            for cap in (1, max(1, limit // 2), limit):
                assert 1 <= curve.best_size(rows, workers, cap) <= min(cap, max(rows, 1))


def test_two_batches_of_the_cap_fit_the_objective() -> None:
    curve = linear()
    cap = curve.cap_for(0.03)
    assert 2 * curve.p50(cap) <= 0.03 < 2 * curve.p50(cap + 1)
    assert curve.cap_for(math.inf) == 32
    assert curve.cap_for(1e-6) == 1
