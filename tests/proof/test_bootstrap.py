from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from strop.proof import BootstrapRefused, bca_upper, resample


def test_matches_scipys_bca():
    d = np.random.default_rng(0).exponential(0.1, 400) - 0.1
    upper = bca_upper(lambda i: d[i].mean(), 400, 0.05, 8000, changed=400, tolerance=0.02)
    theirs = stats.bootstrap(
        (d,),
        np.mean,
        confidence_level=0.95,
        alternative="less",
        method="BCa",
        n_resamples=8000,
        rng=1,
    )
    width = theirs.confidence_interval.high - d.mean()
    assert upper - d.mean() == pytest.approx(width, rel=0.06)


def test_seeded():
    d = np.random.default_rng(1).normal(0, 0.1, 500)

    def bound(seed):
        return bca_upper(lambda i: d[i].mean(), 500, 0.05, seed=seed, changed=500, tolerance=0.01)

    assert bound(3) == bound(3) != bound(4)


def test_groups_are_resampled_whole():
    rng = np.random.default_rng(2)
    d = np.repeat(rng.normal(0, 0.1, 400), 5)
    kwargs = {"changed": 2000, "tolerance": 0.01, "alpha": 0.05}
    rows = bca_upper(lambda i: d[i].mean(), 2000, **kwargs)
    whole = bca_upper(lambda i: d[i].mean(), 2000, groups=np.repeat(np.arange(400), 5), **kwargs)
    ratio = (whole - d.mean()) / (rows - d.mean())
    assert ratio == pytest.approx(np.sqrt(5), rel=0.1)


def test_a_nonlinear_metric():
    rng = np.random.default_rng(3)
    target = rng.random(1500) < 0.3
    reference = target ^ (rng.random(1500) < 0.1)
    candidate = reference ^ (rng.random(1500) < 0.03)

    def f1(predicted, index):
        hit = np.sum(predicted[index] & target[index])
        return 2 * hit / (np.sum(predicted[index]) + np.sum(target[index]))

    def drop(index):
        return f1(reference, index) - f1(candidate, index)

    changed = int(np.sum(reference != candidate))
    upper = bca_upper(drop, 1500, 0.05, changed=changed, tolerance=0.05)
    estimate = drop(np.arange(1500))
    assert estimate < upper < estimate + 0.03


def test_refusals_name_the_reason():
    d = np.zeros(1000)

    def mean(index):
        return float(d[index].mean())

    with pytest.raises(BootstrapRefused, match="only 19 outputs changed"):
        bca_upper(mean, 1000, 0.05, changed=19, tolerance=0.01)
    with pytest.raises(BootstrapRefused, match="at least 300 are needed"):
        bca_upper(mean, 299, 0.05, changed=50, tolerance=0.01)
    with pytest.raises(BootstrapRefused, match="at least 300 are needed"):
        bca_upper(mean, 1000, 0.05, changed=50, tolerance=0.01, groups=np.arange(1000) // 5)
    with pytest.raises(BootstrapRefused, match="the metric is nan"):
        bca_upper(lambda i: float("nan"), 1000, 0.05, changed=50, tolerance=0.01)
    assert issubclass(BootstrapRefused, ValueError)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="at least 2000"):
        bca_upper(lambda i: 0.0, 1000, 0.05, 100, changed=50, tolerance=0.01)
    with pytest.raises(ValueError, match="positive drop"):
        bca_upper(lambda i: 0.0, 1000, 0.05, changed=50, tolerance=0.0)


def test_resamples_give_the_bound_again():
    d = np.random.default_rng(5).normal(0, 0.1, 500)
    kwargs = {"changed": 500, "tolerance": 0.01}
    drawn = resample(lambda i: d[i].mean(), 500, 0.05, **kwargs)
    assert drawn.upper(0.05) == bca_upper(lambda i: d[i].mean(), 500, 0.05, **kwargs)
    assert drawn.upper(0.01) > drawn.upper(0.05) > drawn.estimate == d.mean()


class Clock:
    """Goes on by what the metric says that it takes, and stands still otherwise."""

    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("strop.proof.bootstrap.time", clock)
    return clock


def test_what_cannot_be_done_in_time_is_refused_at_once(clock):
    calls = []

    def slow(index):
        calls.append(index)
        clock.now += 0.01
        return 0.0

    with pytest.raises(BootstrapRefused, match=r"2,201 evaluations of the metric take about 22 s"):
        resample(slow, 500, 0.05, changed=500, tolerance=0.05, seconds=1.0)
    assert len(calls) == 5


def test_a_metric_that_slows_down_ends_when_its_time_is_up(clock):
    calls = []

    def slowing(index):
        calls.append(index)
        clock.now += 0.0 if len(calls) < 20 else 0.1
        return float(index[0])

    with pytest.raises(BootstrapRefused, match=r"budget leaves 0\.3 s"):
        resample(slowing, 500, 0.05, changed=500, tolerance=0.05, seconds=0.3)
    assert len(calls) == 20
