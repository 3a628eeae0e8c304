from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from strop.proof import (
    examples_needed,
    max_disagreement,
    power_agreement,
    power_betting,
    power_binary,
    trinomial_p,
)


def test_binary_power_matches_enumeration():
    n, p01, p10, tolerance = 60, 0.03, 0.04, 0.1
    total = 0.0
    for b in range(n + 1):
        for c in range(min(n - b, 12) + 1):
            mass = stats.multinomial.pmf([b, c, n - b - c], n, [p10, p01, 1 - p10 - p01])
            if mass > 1e-9 and trinomial_p(b, c, n, tolerance) <= 0.05:
                total += mass
    assert power_binary(n, p01, p10, tolerance, 0.05) == pytest.approx(total, abs=1e-6)


def test_agreement_power_matches_enumeration():
    n, rate = 500, 0.004
    proves = [k for k in range(50) if stats.binom.cdf(k, n, 0.01) <= 0.05]
    expected = stats.binom.cdf(max(proves), n, rate)
    assert power_agreement(n, rate, 0.01, 0.05) == pytest.approx(expected)


# From the table that the method was chosen by; powers saw-tooth, so that "fewest" is fuzzy.
@pytest.mark.parametrize(
    ("rate", "drop", "power", "examples"),
    [
        (0.0, 0.0, 0.8, 299),
        (0.01, 0.0, 0.8, 807),
        (0.01, 0.0, 0.9, 1071),
        (0.02, 0.0, 0.8, 1328),
        (0.02, 0.0, 0.9, 1852),
        (0.02, 0.0025, 0.8, 2433),
        (0.05, 0.0, 0.8, 3163),
    ],
)
def test_examples_needed_to_prove_one_point(rate, drop, power, examples):
    needed = examples_needed("binary", rate, drop, 0.01, 0.05, power)
    assert needed == pytest.approx(examples, rel=0.03)
    p01, p10 = (rate - drop) / 2, (rate + drop) / 2
    assert power_binary(needed, p01, p10, 0.01, 0.05) >= power
    assert power_binary(int(0.95 * needed), p01, p10, 0.01, 0.05) < power


def test_examples_needed_for_agreement_and_bounded_scores():
    assert examples_needed("agreement", 0.0, 0.0, 0.01, 0.05) == 299
    needed = examples_needed("agreement", 0.002, 0.0, 0.01, 0.05)
    assert power_agreement(needed, 0.002, 0.01, 0.05) >= 0.8
    # Betting pays for making no assumption on the scores: more data, but not twice as much.
    exact = examples_needed("binary", 0.02, 0.0, 0.01, 0.05)
    betting = examples_needed("bounded", 0.02, 0.0, 0.01, 0.05)
    assert exact < betting < 2 * exact


def test_max_disagreement_is_where_power_is_lost():
    rate = max_disagreement(1400, 0.01, 0.05)
    assert rate == pytest.approx(0.02, abs=0.002)
    assert power_binary(1400, rate / 2, rate / 2, 0.01, 0.05) >= 0.8
    worse = rate + 1e-4
    assert power_binary(1400, worse / 2, worse / 2, 0.01, 0.05) < 0.8


def test_max_disagreement_grows_with_data_and_is_none_without():
    assert max_disagreement(300, 0.01, 0.05) is None
    assert max_disagreement(298, 0.01, 0.05, kind="agreement") is None
    assert max_disagreement(299, 0.01, 0.05, kind="agreement") is not None
    rates = [max_disagreement(n, 0.01, 0.05) for n in (301, 600, 1200, 2400)]
    assert rates == sorted(rates)


def test_betting_power_is_seeded_and_grows():
    d = np.random.default_rng(0).normal(0, 0.1, 300)
    d -= d.mean()
    first = power_betting(400, d, 0.01, 0.05, simulations=200)
    assert first == power_betting(400, d, 0.01, 0.05, simulations=200)
    assert first < power_betting(1600, d, 0.01, 0.05, simulations=200)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="no number of examples"):
        examples_needed("binary", 0.02, 0.01, 0.01, 0.05)
    with pytest.raises(ValueError, match="at least the drop"):
        examples_needed("binary", 0.001, 0.005, 0.01, 0.05)
    with pytest.raises(ValueError, match="power is 80"):
        examples_needed("binary", 0.02, 0.0, 0.01, 0.05, 80)
    with pytest.raises(ValueError, match="sum to at most 1"):
        power_binary(100, 0.6, 0.6, 0.01, 0.05)
