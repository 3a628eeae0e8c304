from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from strop.serve.statistics import Histogram, ModelStatistics


def test_a_histogram_counts_every_value_once() -> None:
    histogram = Histogram((0.001, 0.01, 0.1))
    values = np.random.default_rng(0).lognormal(-4, 2, 1000)
    for value in values:
        histogram.observe(float(value))
    edges = [-np.inf, 0.001, 0.01, 0.1, np.inf]
    expected = [int(((values > low) & (values <= high)).sum()) for low, high in pairwise(edges)]
    assert histogram.counts == expected
    assert histogram.count == 1000
    assert histogram.sum == pytest.approx(values.sum())


def test_triton_reads_nanoseconds_and_batch_sizes() -> None:
    statistics = ModelStatistics()
    statistics.batch(rows=4, requests=3, gather=0.001, compute=0.01)
    statistics.batch(rows=4, requests=1, gather=0.001, compute=0.02)
    statistics.batch(rows=1, requests=1, gather=0.0, compute=0.005)
    told = statistics.to_dict()
    assert told["execution_count"] == 3
    assert told["inference_stats"]["compute_infer"] == {"count": 5, "ns": 55_000_000}
    assert [(it["batch_size"], it["compute_infer"]) for it in told["batch_stats"]] == [
        (1, {"count": 1, "ns": 5_000_000}),
        (4, {"count": 2, "ns": 30_000_000}),
    ]
    assert statistics.compute_seconds.count == 3
    statistics.refuse("overload")
    statistics.refuse("overload")
    assert statistics.refused == {"overload": 2}


@pytest.mark.parametrize("moments", [[1.0, 1.001, 1.002], [1.0, 3.5, 3.9, 4.0], [4.0]])
def test_times_since_moments_are_counted_as_one_by_one(moments: list[float]) -> None:
    together, single = Histogram((0.01, 0.2, 1.0)), Histogram((0.01, 0.2, 1.0))
    together.observe_since(moments, 4.0)
    for moment in moments:
        single.observe(4.0 - moment)
    assert together.counts == single.counts
    assert together.sum == pytest.approx(single.sum)
