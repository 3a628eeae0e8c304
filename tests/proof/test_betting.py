from __future__ import annotations

import math

import numpy as np
import pytest

from strop.proof import betting_p, betting_upper, clustered_d, salted_order, second_moment
from strop.proof.betting import max_log_capital


def capital_by_the_book(d, tolerance, v_search, alpha):
    """The formula as written, one example at a time."""
    n, capital, best, squares = len(d), 1.0, 1.0, 0.0
    for t, x in enumerate(d, start=1):
        v = (20 * v_search + squares) / (19 + t)
        cap = 0.75 / (1 - tolerance)
        aim = max(0.0, 2 * math.log(1 / (alpha * capital)))
        stake = cap if v == 0 else min(math.sqrt(aim / ((n - t + 1) * v)), cap)
        capital *= 1 + stake * (tolerance - x)
        best = max(best, capital)
        if best >= 1 / alpha:
            break
        squares += x * x
    return best


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tolerance", [0.01, 0.05, -0.01])
def test_follows_the_formula(seed, tolerance):
    rng = np.random.default_rng(seed)
    d = rng.uniform(-0.3, 0.3, 400) * (rng.random(400) < 0.3)
    p = betting_p(d, tolerance, v_search=0.01, alpha=0.05)
    assert p == pytest.approx(min(1.0, 1 / capital_by_the_book(d, tolerance, 0.01, 0.05)))


def test_columns_are_independent_runs():
    rng = np.random.default_rng(0)
    d = rng.normal(0, 0.1, (300, 5))
    together = max_log_capital(d, np.ones((300, 1)), np.float64(0.02), v_search=0.01, alpha=0.05)
    alone = [betting_p(d[:, i], 0.02, v_search=0.01, alpha=0.05) for i in range(5)]
    assert np.exp(-together) == pytest.approx(alone)


def test_a_drop_of_one_cannot_ruin():
    d = np.ones(100)
    assert betting_p(d, 0.01, v_search=0.0, alpha=0.05) == 1.0
    capital = max_log_capital(-d, np.ones(100), np.float64(0.5), v_search=0.0, alpha=0.05)
    assert math.isfinite(float(capital))


def test_upper_bound_agrees_with_the_verdict():
    rng = np.random.default_rng(3)
    for _ in range(20):
        d = rng.normal(0.004, 0.06, 600).clip(-1, 1)
        upper = betting_upper(d, 0.05, v_search=0.004, tolerance=0.01)
        p = betting_p(d, 0.01, v_search=0.004, alpha=0.05)
        assert (upper <= 0.01) == (p <= 0.05)
        assert upper > d.mean()


def test_upper_bound_is_the_stated_bound_where_nothing_is_rejected():
    assert betting_upper(np.ones(3), 0.05, v_search=0.0) == 1.0


def test_clusters_follow_the_definition():
    rng = np.random.default_rng(4)
    d, groups = rng.normal(0, 0.2, 60), rng.integers(0, 20, 60)
    bets = clustered_d(d, groups)
    names = list(dict.fromkeys(groups.tolist()))  # order of first appearance
    largest = max(np.sum(groups == name) for name in names)
    for tolerance in (0.01, 0.3):
        expected = [np.sum(tolerance - d[groups == name]) / largest for name in names]
        assert tolerance * bets.weight - bets.drop == pytest.approx(np.array(expected))


def test_singleton_groups_change_nothing():
    d = np.random.default_rng(5).normal(0, 0.1, 200)
    kwargs = {"v_search": 0.01, "alpha": 0.05}
    alone = betting_p(d, 0.02, groups=np.arange(200)[::-1], **kwargs)
    assert alone == pytest.approx(betting_p(d, 0.02, **kwargs))
    assert second_moment(d, np.arange(200)) == pytest.approx(second_moment(d))


def test_copies_prove_no_more_than_one_of_each():
    d = np.random.default_rng(6).choice([-1.0, 0.0, 1.0], 500, p=[0.01, 0.98, 0.01])
    once = betting_p(d, 0.02, v_search=0.02, alpha=0.05)
    copied = betting_p(
        np.repeat(d, 4), 0.02, v_search=0.02, alpha=0.05, groups=np.repeat(np.arange(500), 4)
    )
    assert copied == pytest.approx(once)


def test_order_is_fixed_by_keys_and_salt_alone():
    keys = [f"row-{i}" for i in range(200)]
    order = salted_order(keys, "salt")
    assert sorted(order.tolist()) == list(range(200))
    assert order.tolist() == salted_order(keys, "salt").tolist()
    assert order.tolist() != salted_order(keys, "pepper").tolist()
    # The same keys in another order are visited in the same sequence.
    assert [keys[::-1][i] for i in salted_order(keys[::-1], "salt")] == [keys[i] for i in order]


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="exceeds the bound"):
        betting_p([0.0, 1.5], 0.01, v_search=0.01, alpha=0.05)
    with pytest.raises(ValueError, match="v_search"):
        betting_p([0.0], 0.01, v_search=-1, alpha=0.05)
    with pytest.raises(ValueError, match="not finite"):
        betting_p([math.nan], 0.01, v_search=0.01, alpha=0.05)
    with pytest.raises(ValueError, match="groups has shape"):
        clustered_d([0.0, 1.0], ["a"])
    with pytest.raises(ValueError, match="tolerance is 1"):
        betting_p([0.0], 1.0, v_search=0.01, alpha=0.05)
