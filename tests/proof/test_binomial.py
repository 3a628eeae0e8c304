from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from strop.proof import agreement_p, agreement_upper, clopper_pearson, mean_interval


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_matches_scipy(counts):
    k, n = counts
    test = stats.binomtest(k, n)
    exact = test.proportion_ci(0.95, "exact")
    assert clopper_pearson(k, n, 0.05) == pytest.approx((exact.low, exact.high), abs=1e-9)
    wilson = test.proportion_ci(0.9, "wilson")
    assert mean_interval(k, n, 0.9) == pytest.approx((wilson.low, wilson.high), abs=1e-9)
    less = stats.binomtest(k, n, 0.01, alternative="less")
    assert agreement_p(k, n, 0.01) == pytest.approx(less.pvalue, abs=1e-9)
    one_sided = less.proportion_ci(0.95, "exact").high
    assert agreement_upper(k, n, 0.05) == pytest.approx(one_sided, abs=1e-9)


@given(st.integers(0, 30))
def test_bound_and_p_value_agree(k):
    assert (agreement_p(k, 1000, 0.02) <= 0.05) == (agreement_upper(k, 1000, 0.05) <= 0.02)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="do not fit"):
        agreement_p(11, 10, 0.01)
    with pytest.raises(ValueError, match="at least one example"):
        clopper_pearson(0, 0, 0.05)
    with pytest.raises(ValueError, match="tolerance is 0"):
        agreement_p(0, 10, 0)
    with pytest.raises(ValueError, match="1 - confidence"):
        mean_interval(1, 10, 95)
