from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from strop.proof import (
    clean_queries_needed,
    launch_log_ratio,
    median_interval,
    quantile_interval,
    ratio_interval,
)


def test_linear_drift_cancels_in_a_quad():
    a, b = 3.0, 2.0
    drift = np.exp(0.1 * np.arange(4))
    quads = np.array([[a, b, b, a]]) * drift
    assert launch_log_ratio(quads) == pytest.approx(math.log(1.5))


def test_one_interrupted_quad_changes_little():
    quads = np.tile([2.0, 1.0, 1.0, 2.0], (5, 1))
    quads[3, 1] = 50.0
    assert launch_log_ratio(quads) == pytest.approx(math.log(2))


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_t_interval_matches_scipy(confidence):
    logs = np.random.default_rng(0).normal(0.3, 0.05, 12)
    expected = stats.ttest_1samp(logs, 0).confidence_interval(confidence)
    interval = ratio_interval(logs, confidence)
    assert interval[1:] == pytest.approx((math.exp(expected.low), math.exp(expected.high)))
    assert interval.estimate == pytest.approx(math.exp(logs.mean()))


@pytest.mark.parametrize("n", [6, 10, 15])
def test_hodges_lehmann_inverts_the_signed_rank_test(n):
    logs = np.random.default_rng(n).normal(0.2, 0.1, n)
    interval = ratio_interval(logs, 0.95, "hodges-lehmann")

    def p(shift):
        return stats.wilcoxon(logs - shift, method="exact").pvalue

    for end in (math.log(interval.low), math.log(interval.high)):
        inside, outside = sorted((p(end - 1e-9), p(end + 1e-9)), reverse=True)
        assert outside <= 0.05 < inside


def test_too_few_launches_for_signed_ranks():
    with pytest.raises(ValueError, match="time more launches"):
        ratio_interval([0.1, 0.2, 0.3, 0.2, 0.1], 0.95, "hodges-lehmann")


@pytest.mark.parametrize(("n", "q"), [(100, 0.5), (1000, 0.99), (37, 0.9), (500, 0.9)])
def test_quantile_interval_is_the_shortest_that_is_exact(n, q):
    interval = quantile_interval(np.arange(1.0, n + 1), q)
    # P(X_(r) <= quantile) = P(at least r of n lie below it), for a continuous distribution.
    low, high = interval.low, interval.high
    assert stats.binom.cdf(low - 1, n, q) <= 0.025 < stats.binom.cdf(low, n, q)
    if math.isfinite(high):
        assert stats.binom.sf(high - 1, n, q) <= 0.025 < stats.binom.sf(high - 2, n, q)
    assert low <= interval.estimate <= high


def test_too_few_samples_leave_the_tail_open():
    interval = quantile_interval([1.0, 2.0, 3.0], 0.99)
    assert interval.high == math.inf
    assert quantile_interval([1.0], 0.5).low == -math.inf


def test_median_interval_is_the_quantile_at_a_half():
    samples = np.random.default_rng(2).exponential(size=200)
    assert median_interval(samples, 0.9) == quantile_interval(samples, 0.5, 0.9)


def test_clean_queries():
    n = clean_queries_needed(0.99, 0.99)
    assert n == 459
    assert 0.99**n <= 0.01 < 0.99 ** (n - 1)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="expected \\[quads, 4\\]"):
        launch_log_ratio([1.0, 2.0, 3.0, 4.0])
    with pytest.raises(ValueError, match="not positive"):
        launch_log_ratio([[1.0, 0.0, 1.0, 1.0]])
    with pytest.raises(ValueError, match="at least two launches"):
        ratio_interval([0.1])
    with pytest.raises(ValueError, match="method is 'z'"):
        ratio_interval([0.1, 0.2], method="z")
    with pytest.raises(ValueError, match="q is 99"):
        quantile_interval([1.0, 2.0], 99)
