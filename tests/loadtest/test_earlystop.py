from __future__ import annotations

import math

import numpy as np
import pytest

from strop.loadtest.earlystop import allowed, estimate_rank, passes, required
from strop.loadtest.slo import Slo, judge


@pytest.mark.parametrize(
    ("over", "percentile", "queries"),
    [(0, 0.99, 459), (1, 0.99, 662), (1, 0.9, 64), (1, 0.999, 6636)],
)
def test_the_counts_of_loadgen(over: int, percentile: float, queries: int) -> None:
    assert required(over, percentile) == queries


def test_the_criterion_is_the_binomial_tail() -> None:
    for queries, over in ((500, 0), (700, 1), (2000, 9), (2000, 11)):
        tail = sum(math.comb(queries, k) * 0.01**k * 0.99 ** (queries - k) for k in range(over + 1))
        assert passes(queries, over) == (tail <= 0.01)


@pytest.mark.parametrize("queries", [459, 1000, 5000])
def test_allowed_is_the_inverse_of_required(queries: int) -> None:
    most = allowed(queries)
    assert required(most) <= queries < required(most + 1)


def test_the_bound_covers_the_percentile() -> None:
    """At 99% confidence at most 1% of runs may bound the true percentile too low."""
    generator = np.random.default_rng(0)
    rank = estimate_rank(200, 0.9)
    assert rank is not None
    runs = np.sort(generator.random((5000, 200)), axis=1)[:, -rank]
    assert np.mean(runs < 0.9) < 0.01


def test_a_verdict_of_held_is_wrong_at_most_as_often_as_said() -> None:
    """A server with exactly 1.001% over would be let pass in at most 1% of runs."""
    over = np.random.default_rng(1).binomial(3000, 0.01001, 20_000)
    assert np.mean(over <= allowed(3000)) <= 0.01


@pytest.mark.parametrize(
    ("late", "queries", "verdict"),
    [(0, 459, "held"), (0, 458, "undecided"), (5, 600, "undecided"), (7, 600, "missed")],
)
def test_verdicts(late: int, queries: int, verdict: str) -> None:
    latency = np.full(queries, 0.01)
    latency[:late] = 0.03
    assert judge(Slo(0.02), latency, np.full(queries, 200)).verdict == verdict


def test_failed_queries_are_over_however_fast() -> None:
    status = np.full(1000, 200)
    status[:50] = 500
    assert judge(Slo(1.0, allow_refusals=True), np.zeros(1000), status).verdict == "missed"
