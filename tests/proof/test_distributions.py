"""Our distribution functions against SciPy's, and against arithmetic with forty digits."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from strop.proof import distributions
from strop.proof.distributions import (
    binomial_cdf,
    binomial_chance,
    binomial_pmf,
    normal_cdf,
    normal_quantile,
    staircase_cdf,
    student_t_quantile,
)

CASES = [
    (0, 1, 0.5),
    (3, 10, 0.2),
    (9, 10, 0.999),
    (15, 16, 0.5),
    (16, 32, 0.5),
    (0, 299, 0.01),
    (40, 7000, 0.01),
    (70, 7000, 0.01),
    (170, 7000, 0.01),
    (2, 20_000, 1e-5),
    (4_700, 10_000, 0.5),
    (5_300, 10_000, 0.5),
    (98_765, 100_000, 0.99),
]


def forty_digits(k: int, n: int, p: float) -> tuple[Decimal, Decimal]:
    """``P(X = k)`` and ``P(X <= k)``, the sum taken term by term."""
    with localcontext() as context:
        context.prec = 40
        chance = Decimal(p)
        point = math.comb(n, k) * chance**k * (1 - chance) ** (n - k)
        total = term = point
        for j in range(k, 0, -1):
            term = term * j * (1 - chance) / ((n - j + 1) * chance)
            total += term
            if term < total * Decimal("1e-30"):
                break
        return point, total


@pytest.mark.parametrize(("k", "n", "p"), CASES)
def test_the_binomial_is_right_to_twelve_digits(k: int, n: int, p: float) -> None:
    point, total = forty_digits(k, n, p)
    assert float(binomial_pmf(k, n, p)) == pytest.approx(float(point), rel=1e-12)
    assert float(binomial_cdf(k, n, p)) == pytest.approx(float(total), rel=1e-12)


@given(
    n=st.integers(1, 100_000),
    share=st.floats(0, 1),
    # SciPy has no answer, but an error, where 1 / p is no longer a number.
    p=st.one_of(st.just(0.0), st.floats(1e-290, 1), st.floats(-12, 0).map(lambda it: 10**it)),
)
@settings(deadline=None)
def test_the_binomial_agrees_with_scipy_everywhere(n: int, share: float, p: float) -> None:
    # Around the mean as well, where no tail is small.
    for k in {int(share * n), min(n, round(n * p)), 0, n}:
        # SciPy's own relative error reaches 1e-9 in the tails (the case above is the judge there).
        assert float(binomial_cdf(k, n, p)) == pytest.approx(
            float(special.bdtr(float(k), n, p)), rel=1e-8, abs=1e-300
        )
        assert float(binomial_pmf(k, n, p)) == pytest.approx(
            float(stats.binom.pmf(k, n, p)), rel=1e-8, abs=1e-290
        )


def test_the_binomial_broadcasts_and_knows_its_ends() -> None:
    k = np.arange(-1, 5)[:, None]
    p = np.array([0.0, 0.3, 1.0])
    found = binomial_cdf(k, 4, p)
    assert found.shape == (6, 3)
    np.testing.assert_allclose(found[1:], stats.binom.cdf(k[1:], 4, p), rtol=1e-14)
    assert (found[0] == 0).all()
    np.testing.assert_allclose(binomial_pmf(k[1:], 4, p).sum(axis=0), 1.0, rtol=1e-14)
    assert float(binomial_pmf(0, 0, 0.5)) == float(binomial_cdf(0, 0, 0.5)) == 1.0


@given(
    n=st.integers(2, 3000),
    start=st.integers(-2, 60),
    rises=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    p=st.one_of(st.just(0.0), st.just(1.0), st.floats(1e-9, 1)),
)
@settings(deadline=None)
def test_a_staircase_is_what_its_steps_are_one_by_one(
    n: int, start: int, rises: list[int], p: float
) -> None:
    columns = min(len(rises), n - 1)
    k = start + np.cumsum([0, *rises[:columns]])[None].astype(np.float64)
    trials = n - np.arange(columns + 1)[None].astype(np.float64)
    share = np.array([[p]])
    expected = binomial_cdf(np.minimum(k, trials), trials, share)
    np.testing.assert_allclose(staircase_cdf(k, trials, share), expected, rtol=0, atol=1e-12)


def test_steps_that_fall_are_taken_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def spy(k: np.ndarray, n: np.ndarray, p: np.ndarray) -> np.ndarray:
        calls.append(k.shape)
        return binomial_cdf(k, n, p)

    monkeypatch.setattr(distributions, "binomial_cdf", spy)
    k, n = np.array([[3.0, 1.0, 2.0]]), np.array([[9.0, 8.0, 7.0]])
    found = staircase_cdf(k, n, np.array([[0.4]]))
    assert calls == [(1, 3)]
    np.testing.assert_allclose(found, stats.binom.cdf(k, n, 0.4), rtol=1e-13)


@given(
    n=st.integers(1, 50_000),
    share=st.floats(0, 1, exclude_max=True),
    level=st.one_of(st.floats(1e-6, 1 - 1e-6), st.sampled_from([0.0005, 0.025, 0.05, 0.975])),
)
@settings(deadline=None)
def test_the_ends_of_intervals_agree_with_scipy(n: int, share: float, level: float) -> None:
    k = int(share * n)
    p = float(binomial_chance(k, n, level))
    # The complement of the level is exact in SciPy's second form only.
    assert p == pytest.approx(float(special.betainccinv(k + 1, n - k, level)), rel=1e-9)


def test_a_quantile_of_student_agrees_with_scipy() -> None:
    for freedom in (1, 2, 3, 4, 5, 8, 29, 30, 200, 1001):
        for p in (0.025, 0.5, 0.9, 0.975, 0.9995):
            expected = float(special.stdtrit(freedom, p))
            assert student_t_quantile(freedom, p) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_normal_agrees_with_scipy() -> None:
    for p in (1e-12, 1e-4, 0.025, 0.5, 0.8, 0.999999):
        assert normal_quantile(p) == pytest.approx(float(special.ndtri(p)), rel=1e-12, abs=1e-15)
    for x in (-30.0, -5.0, -1.0, 0.0, 0.3, 8.0):
        assert normal_cdf(x) == pytest.approx(float(special.ndtr(x)), rel=1e-12)
