from __future__ import annotations

import numpy as np
import pytest

from strop.loadtest.arrivals import intended_times
from strop.loadtest.tally import histogram, percentiles


def test_percentiles_are_measured_values() -> None:
    found = percentiles(np.random.default_rng(0).permutation(np.arange(1, 1001)) / 1000)
    assert found is not None
    assert (found.p50, found.p90, found.p99, found.p999) == (0.5, 0.9, 0.99, 0.999)
    assert (found.minimum, found.maximum) == (0.001, 1.0)
    assert percentiles(np.array([])) is None


def test_the_histogram_counts_every_latency_once() -> None:
    seconds = np.random.default_rng(0).lognormal(-5, 2, 5000)
    bins = histogram(seconds)
    assert sum(one.count for one in bins) == 5000
    for one in bins:
        inside = np.sum((seconds >= one.low * (1 - 1e-12)) & (seconds < one.high * (1 - 1e-12)))
        assert one.count == inside
    assert histogram(np.array([])) == ()


def test_poisson_arrivals_have_the_rate_and_the_spread() -> None:
    times = intended_times(50.0, "poisson", 3)
    gaps = np.diff([next(times) for _ in range(20_000)])
    assert np.mean(gaps) == pytest.approx(0.02, rel=0.03)
    assert np.std(gaps) == pytest.approx(0.02, rel=0.03)
