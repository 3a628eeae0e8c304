from __future__ import annotations

import numpy as np
import pytest

from strop.serve.policy import DeadlineAware, FixedSizeAndDelay
from strop.serve.simulate import Outcome, poisson, simulate

from .test_curve import linear

SLO = 0.03
CAPACITY = 32 / 0.018
"""Requests a second at the largest batch of `linear`."""


def late(outcome: Outcome) -> float:
    return float((outcome.latencies > SLO).mean())


@pytest.mark.parametrize("load", [0.05, 0.3, 0.6, 0.8])
def test_deadline_aware_keeps_the_objective_where_waiting_for_size_misses_it(load: float) -> None:
    arrivals = poisson(load * CAPACITY, 5.0, seed=1)
    aware = simulate(DeadlineAware(SLO), linear(), arrivals, slo=SLO)
    fixed = simulate(FixedSizeAndDelay(32, delay=0.025), linear(), arrivals, slo=SLO)
    assert aware.quantile(0.99) <= SLO
    assert aware.quantile(0.5) < fixed.quantile(0.5)
    if load > 0.05:
        assert late(fixed) > 0.01


@pytest.mark.parametrize("load", [0.05, 0.5, 0.95, 3.0])
@pytest.mark.parametrize("workers", [1, 2])
def test_deadline_aware_never_idles_with_work_queued(load: float, workers: int) -> None:
    arrivals = poisson(load * workers * CAPACITY, 1.0, seed=2)
    aware = simulate(DeadlineAware(SLO), linear(), arrivals, slo=SLO, workers=workers)
    assert aware.idle_seconds == 0.0
    assert len(aware.latencies) == len(arrivals)
    assert aware.batches.sum() == len(arrivals)


def test_a_fixed_delay_idles_with_work_queued() -> None:
    arrivals = poisson(0.3 * CAPACITY, 2.0, seed=2)
    fixed = simulate(FixedSizeAndDelay(32, delay=0.01), linear(), arrivals, slo=SLO)
    assert fixed.idle_seconds > 0.1


@pytest.mark.parametrize("load", [0.95, 1.2, 10.0])
def test_what_is_admitted_keeps_the_objective_under_overload(load: float) -> None:
    arrivals = poisson(load * CAPACITY, 4.0, seed=3)
    outcome = simulate(DeadlineAware(SLO), linear(), arrivals, slo=SLO, admit=True)
    assert outcome.refused + len(outcome.latencies) == len(arrivals)
    assert late(outcome) <= 0.01
    assert outcome.throughput >= 0.9 * min(load, 1.0) * CAPACITY
    if load > 1:
        assert outcome.refused >= (load - 1) * CAPACITY * 4.0 * 0.9


def test_without_admission_everybody_is_late() -> None:
    arrivals = poisson(1.5 * CAPACITY, 2.0, seed=3)
    outcome = simulate(DeadlineAware(SLO), linear(), arrivals, slo=SLO)
    assert late(outcome) > 0.9


def test_seeds_decide_everything() -> None:
    arrivals = poisson(300, 1.0, seed=4)
    runs = [simulate(DeadlineAware(), linear(), arrivals, seed=7) for _ in range(2)]
    np.testing.assert_array_equal(runs[0].latencies, runs[1].latencies)
