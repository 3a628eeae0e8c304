from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from strop.proof import rejection_region, trinomial, trinomial_p, trinomial_upper
from strop.proof.trinomial import GAMMA, gamma_for, tango_z


def all_counts(n):
    b, c = np.meshgrid(np.arange(n + 1.0), np.arange(n + 1.0), indexing="ij")
    return b, c, b + c <= n


def masses(b, c, n, p01, p10):
    both = max(0.0, 1 - p01 - p10)
    return stats.multinomial.pmf(np.stack([b, c, n - b - c], axis=-1), n, [p10, p01, both])


def brute_force_p(b, c, n, tolerance):
    """The definition, summed over all counts, with the nuisance on a dense grid."""
    bs, cs, possible = all_counts(n)
    bs, cs = bs[possible], cs[possible]
    z = tango_z(bs, cs, n, tolerance)
    region = z <= tango_z(np.float64(b), np.float64(c), n, tolerance) + 1e-9
    low = stats.beta.ppf(GAMMA / 2, c, n - c + 1) if c else 0.0
    high = min(stats.beta.ppf(1 - GAMMA / 2, c + 1, n - c), (1 - tolerance) / 2)
    worst = 0.0
    for p01 in np.linspace(min(low, high), high, 400):
        mass = masses(bs[region], cs[region], n, p01, max(0.0, p01 + tolerance))
        worst = max(worst, float(mass.sum()))
    return min(1.0, GAMMA + worst)


@pytest.mark.parametrize(
    ("b", "c", "n", "tolerance"),
    [(0, 0, 40, 0.1), (1, 3, 40, 0.1), (4, 4, 60, 0.05), (0, 5, 50, 0.02), (6, 2, 30, 0.3)],
)
def test_p_value_matches_brute_force(b, c, n, tolerance):
    exact = brute_force_p(b, c, n, tolerance)
    p = trinomial_p(b, c, n, tolerance)
    # The grid that covers the interval reaches a little beyond it: never much below.
    assert exact - 1e-4 <= p <= exact * 1.05 + 1e-4


@pytest.mark.parametrize("tolerance", [-0.05, 0.0, 0.01, 0.1])
def test_statistic_matches_maximum_likelihood(tolerance):
    n, b, c = 200, 12, 7

    def loss(q):
        return -(
            b * np.log(q + tolerance) + c * np.log(q) + (n - b - c) * np.log(1 - 2 * q - tolerance)
        )

    bounds = (max(0, -tolerance) + 1e-9, (1 - tolerance) / 2 - 1e-9)
    q = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    expected = (b - c - n * tolerance) / np.sqrt(n * (2 * q + tolerance * (1 - tolerance)))
    assert tango_z(np.float64(b), np.float64(c), n, tolerance) == pytest.approx(expected, abs=1e-5)


def test_statistic_is_mcnemars_at_tolerance_zero():
    assert tango_z(np.float64(5), np.float64(14), 100, 0.0) == pytest.approx(-9 / np.sqrt(19))


@pytest.mark.parametrize("n", [12, 60])
@pytest.mark.parametrize("tolerance", [-0.2, -0.01, 0.0, 0.01, 0.1, 0.4])
def test_statistic_rises_with_losses_and_falls_with_wins(n, tolerance):
    """Barnard's convexity, on which the one-dimensional search for the worst case rests."""
    b, c, possible = all_counts(n)
    z = np.where(possible, tango_z(b, c, n, tolerance), np.nan)
    assert np.nanmin(np.diff(z, axis=0)) >= -1e-12
    assert np.nanmax(np.diff(z, axis=1)) <= 1e-12


@pytest.mark.parametrize(("n", "tolerance"), [(40, 0.1), (100, 0.05), (25, 0.2)])
def test_size_is_below_alpha_everywhere_in_h0(n, tolerance):
    region = rejection_region(n, tolerance, 0.05, n)
    worst = 0.0
    for p01 in np.linspace(0, (1 - tolerance) / 2, 60):
        for excess in (0.0, 0.02, 0.1):
            p10 = p01 + tolerance + excess
            if p01 + p10 <= 1:
                worst = max(worst, region.probability(p01, p10))
    assert 0.03 < worst <= 0.05


@pytest.mark.parametrize(("n", "tolerance", "alpha"), [(150, 0.03, 0.05), (1328, 0.01, 0.0083)])
def test_region_decides_as_the_p_value_does(n, tolerance, alpha):
    limit = rejection_region(n, tolerance, alpha, 40).limit
    for c in range(0, 41, 4):
        largest = int(limit[c])
        gamma = gamma_for(alpha)
        assert largest < 0 or trinomial_p(largest, c, n, tolerance, gamma=gamma) <= alpha
        assert trinomial_p(largest + 1, c, n, tolerance, gamma=gamma) > alpha


def test_region_probability_sums_its_cells():
    n, region = 40, rejection_region(40, 0.1, 0.05, 40)
    b, c, possible = all_counts(n)
    b, c = b[possible], c[possible]
    inside = region.contains(b.astype(int), c.astype(int))
    expected = masses(b[inside], c[inside], n, 0.03, 0.05).sum()
    assert region.probability(0.03, 0.05) == pytest.approx(expected, rel=1e-9)


def test_zero_discordants():
    assert trinomial_p(0, 0, 301, 0.01) == pytest.approx(GAMMA + 0.99**301, abs=1e-6)
    assert trinomial_p(0, 0, 300, 0.01) > 0.05
    assert trinomial_upper(0, 0, 301, 0.05) < 0.01 < trinomial_upper(0, 0, 300, 0.05)


@pytest.mark.parametrize(("b", "c", "n"), [(0, 0, 300), (2, 2, 50), (10, 10, 200), (3, 9, 400)])
def test_every_drop_beyond_the_bound_is_rejected(b, c, n):
    upper = trinomial_upper(b, c, n, 0.05)
    beyond = np.linspace(upper, min(0.9, upper + 0.2), 60)
    assert all(trinomial_p(b, c, n, float(t)) <= 0.05 for t in beyond)
    assert trinomial_p(b, c, n, upper - 5e-6) > 0.05


def test_bound_below_zero_for_a_better_candidate():
    upper = trinomial_upper(2, 40, 500, 0.05)
    assert -0.09 < upper < -0.03
    # (5, 14): proven below zero at every drop but zero itself, where ties raise p, if at all.
    upper = trinomial_upper(5, 14, 100, 0.05)
    assert upper < 0 or trinomial_p(5, 14, 100, 0.0) > 0.05


def test_bound_shrinks_with_confidence_and_data():
    assert trinomial_upper(5, 5, 500, 0.1) < trinomial_upper(5, 5, 500, 0.05)
    assert trinomial_upper(10, 10, 1000, 0.05) < trinomial_upper(5, 5, 500, 0.05)


def test_small_alphas_of_late_reruns_can_prove():
    assert trinomial_p(0, 0, 5000, 0.01, gamma=gamma_for(0.0005)) <= 0.0005
    assert trinomial_upper(0, 0, 5000, 0.0005) < 0.01


def test_little_is_computed_at_ten_thousand_examples(monkeypatch):
    """Counted in limits that are looked for; of pairs of counts there are 50 million."""
    pairs, looked_for = 10_000**2 / 2, 0
    largest_b = trinomial._largest_b

    def counted(z, c, *given):
        nonlocal looked_for
        looked_for += np.broadcast(np.asarray(z), np.asarray(c)).size
        return largest_b(z, c, *given)

    monkeypatch.setattr(trinomial, "_largest_b", counted)
    trinomial_p(250, 240, 10_000, 0.01)
    assert 0 < looked_for < pairs / 2000
    trinomial_upper(250, 240, 10_000, 0.05)
    assert looked_for < pairs / 200


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="do not fit n = 10"):
        trinomial_p(8, 3, 10, 0.01)
    with pytest.raises(ValueError, match="tolerance is 1"):
        trinomial_p(0, 0, 10, 1.0)
    with pytest.raises(ValueError, match="alpha is 5"):
        trinomial_upper(0, 0, 10, 5)
