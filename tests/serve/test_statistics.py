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
