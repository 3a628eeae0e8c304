from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest

from strop.errors import StropError
from strop.measure import Conditions, PairTiming, curve, speedup, summarise
from strop.workers import ChildFailed

FAKE = Conditions(loader="fakes:load")
QUICK = {"conditions": FAKE, "seconds": 0.01, "warmup_seconds": 0.02}


def under(**changes: object) -> dict[str, object]:
    return QUICK | {"conditions": replace(FAKE, **changes)}


def _timing(log_ratios: list[float]) -> PairTiming:
    return PairTiming(np.array(log_ratios), (), (), (), 4, shortened=False, settled=True)


def test_percentiles_are_those_of_the_pooled_calls() -> None:
    rng = np.random.default_rng(0)
    launches = [rng.gamma(5.0, 0.001, 300) for _ in range(5)]
    latency = summarise(launches, batch=2, threads=3)
    pooled = np.concatenate(launches)
    for interval, q in ((latency.p50, 0.5), (latency.p90, 0.9), (latency.p99, 0.99)):
        assert interval.estimate == np.quantile(pooled, q, method="inverted_cdf")
        assert interval.low < interval.estimate < interval.high < math.inf
    assert latency.throughput == 2 / latency.p50.estimate
    assert (latency.launches, latency.calls, latency.threads) == (5, 1500, 3)


def test_launches_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    noise = [rng.normal(0, 1e-6, 500) for _ in range(4)]
    alike = summarise([0.001 + each for each in noise], batch=1, threads=1)
    levels = (0.0010, 0.0011, 0.0012, 0.0013)
    pairs = zip(levels, noise, strict=True)
    unlike = summarise([level + each for level, each in pairs], batch=1, threads=1)
    assert alike.p50.high - alike.p50.low < 2e-5
    # Student's interval over four launch medians reaches beyond the medians themselves.
    assert unlike.p50.low < 0.00105 and unlike.p50.high > 0.00125


def test_the_median_interval_covers_when_launches_vary() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        levels = np.exp(rng.normal(math.log(0.002), 0.05, 6))
        latency = summarise([level * np.ones(50) for level in levels], batch=1, threads=1)
        covered += latency.p50.low <= 0.002 <= latency.p50.high
    assert covered >= 180


def test_few_calls_cannot_bound_a_tail() -> None:
    latency = summarise([np.linspace(0.001, 0.002, 40)], batch=1, threads=1)
    assert latency.p99.high == math.inf
    assert latency.p50.low >= 0.001
    with pytest.raises(StropError, match="no timed call"):
        summarise([np.array([])], batch=1, threads=1)


def test_speedup_is_a_ratio_with_an_interval() -> None:
    logs = [math.log(ratio) for ratio in (1.9, 2.0, 2.1, 2.0, 2.05, 1.95, 2.0)]
    for method in ("t", "hodges-lehmann"):
        found = speedup(_timing(logs), "original", method=method)
        assert found.against == "original" and found.batch == 4 and found.launches == 7
        assert 1.9 <= found.ratio.low < found.ratio.estimate < found.ratio.high <= 2.1
        assert found.ratio.estimate == pytest.approx(2.0, rel=0.01)


def test_one_launch_bounds_nothing_and_none_says_nothing() -> None:
    ratio = speedup(_timing([math.log(3.0)]), "original").ratio
    assert (round(ratio.estimate, 9), ratio.low, ratio.high) == (3.0, 0.0, math.inf)
    with pytest.raises(StropError, match="no launch was timed"):
        speedup(_timing([]), "original")


def test_a_curve_ends_where_the_session_refuses(fake) -> None:
    batches = {size: {"x": np.zeros((size, 3), np.float32)} for size in (1, 4, 16, 64)}
    points = curve(fake(largest_batch=4), batches, **QUICK)
    assert [point.batch for point in points] == [1, 4]
    assert all(0 < point.p50_seconds <= point.p99_seconds for point in points)
    with pytest.raises(ChildFailed, match="too large"):
        curve(fake(largest_batch=0), batches, **QUICK)
    assert curve(fake(), {}, **QUICK) == ()


def test_a_curve_keeps_what_it_has_at_the_deadline(fake) -> None:
    batches = {size: {"x": np.zeros((size, 3), np.float32)} for size in range(1, 1000)}
    points = curve(fake(), batches, **under(deadline=time.monotonic() + 0.5))
    assert 1 <= len(points) < 999
