"""How many examples a proof needs: said before the search, and after a failure.

The exact tests' power is exact: the probability of their rejection region, summed. Only the
betting test's is simulated. Powers of exact tests saw-tooth in n, so that a few examples more can
prove slightly less; :func:`examples_needed` answers within one tooth.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from strop.proof.betting import DEFAULT_SECOND_MOMENT, max_log_capital
from strop.proof.binomial import check_alpha
from strop.proof.distributions import binomial_cdf, normal_quantile
from strop.proof.quality import Kind
from strop.proof.trinomial import rejection_region

_MOST_EXAMPLES = 10_000_000


def power_binary(n: int, p01: float, p10: float, tolerance: float, alpha: float) -> float:
    """Exact chance that ``n`` examples prove the tolerance for 0/1 scores.

    ``p10`` (``p01``): probability that only the reference (candidate) is right.

    >>> round(power_binary(3163, 0.025, 0.025, 0.01, 0.05), 3)
    0.8
    """
    if p01 < 0 or p10 < 0 or p01 + p10 > 1:
        raise ValueError(f"p01 = {p01}, p10 = {p10}; expected probabilities that sum to at most 1")
    if p01 == 1:
        return 1.0
    region = rejection_region(n, tolerance, alpha, _likely_most(n, p01))
    return region.probability(p01, p10)


def power_agreement(n: int, rate: float, tolerance: float, alpha: float) -> float:
    """Exact chance that ``n`` examples prove the tolerance for agreement with the original.

    ``rate``: probability that a decision changes.

    >>> power_agreement(299, 0.0, 0.01, 0.05), power_agreement(298, 0.0, 0.01, 0.05)
    (1.0, 0.0)
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is {rate}; expected a probability")
    check_alpha(alpha)
    low, high = -1, n  # largest count known to prove, smallest known not to
    while high - low > 1:
        middle = (low + high) // 2
        if binomial_cdf(middle, n, tolerance) <= alpha:
            low = middle
        else:
            high = middle
    return float(binomial_cdf(low, n, rate)) if low >= 0 else 0.0


def power_betting(
    n: int,
    d: ArrayLike,
    tolerance: float,
    alpha: float,
    *,
    v_search: float | None = None,
    simulations: int = 400,
    seed: int = 0,
) -> float:
    """Simulated chance that ``n`` examples prove the tolerance by betting.

    ``d`` float[m]: drops seen on other data, from which examples are drawn with replacement;
    ``v_search`` as in :func:`strop.proof.betting_p`, by default their mean square. The standard
    error is at most ``0.5 / sqrt(simulations)``.

    >>> power_betting(600, [0.0, 0.0, 0.02, -0.02], 0.01, 0.05, simulations=50)
    1.0
    """
    check_alpha(alpha)
    seen = np.asarray(d, dtype=np.float64)
    if seen.ndim != 1 or not len(seen):
        raise ValueError(f"d has shape {seen.shape}; expected drops, at least one")
    draws = np.random.default_rng(seed).choice(seen, size=(n, simulations))
    capital = max_log_capital(
        draws,
        np.ones((n, 1)),
        np.float64(tolerance),
        v_search=float(np.mean(seen**2)) if v_search is None else v_search,
        alpha=alpha,
    )
    return float(np.mean(capital >= -math.log(alpha)))


def examples_needed(
    kind: Kind,
    disagreement_rate: float,
    drop: float,
    tolerance: float,
    alpha: float,
    power: float = 0.8,
) -> int:
    """Fewest examples that prove the tolerance with the given power.

    ``disagreement_rate``: share of examples whose score changes (at least ``drop``); ``drop``
    the true mean drop, below the tolerance (unused for ``agreement``, where the rate is the
    drop). For ``bounded`` scores every change is taken to be a full unit, which asks for the
    most examples, and the power is simulated. Raises ``ValueError`` where no number suffices.

    >>> examples_needed("agreement", 0.0, 0.0, 0.01, 0.05)
    299
    """
    effective = disagreement_rate if kind == "agreement" else drop
    if effective >= tolerance:
        raise ValueError(
            f"a true drop of {effective:g} is not below the tolerance {tolerance:g}:"
            " no number of examples proves it"
        )
    if not abs(drop) <= disagreement_rate <= 1 and kind != "agreement":
        raise ValueError(
            f"disagreement_rate is {disagreement_rate:g}; expected at least the drop, {drop:g}"
        )
    if not 0 < power < 1:
        raise ValueError(f"power is {power}; expected a probability between 0 and 1")
    check_alpha(alpha)

    def enough(n: int) -> bool:
        return _power(kind, n, disagreement_rate, drop, tolerance, alpha) >= power

    return _smallest(enough, _normal_guess(disagreement_rate, effective, tolerance, alpha, power))


def max_disagreement(
    n: int, tolerance: float, alpha: float, power: float = 0.8, *, kind: Kind = "binary"
) -> float | None:
    """Largest share of changed answers, at true drop 0, with which ``n`` examples can prove.

    "These 1,400 examples can prove 1 point if at most 2% of answers change." None where even
    a candidate that changes nothing cannot be proven. To 1e-4, rounded down.

    >>> max_disagreement(1400, 0.01, 0.05)
    0.0208
    >>> max_disagreement(250, 0.01, 0.05) is None
    True
    """
    rates = np.arange(10_001) / 10_000

    def enough(index: int) -> bool:
        rate = float(rates[index])
        if kind == "agreement" and rate >= tolerance:
            return False
        return _power(kind, n, rate, 0.0, tolerance, alpha) >= power

    if not enough(0):
        return None
    low, high = 0, max(1, int(10_000 * _normal_rate(n, tolerance, alpha, power)))
    while high < len(rates) and enough(high):
        low, high = high, math.ceil(high * 1.1)
    high = min(high, len(rates))
    while high - low > 1:
        # Just below the first guess is the likeliest place; halve from there on.
        middle = max((low + high) // 2, high - max(1, high // 10) if low == 0 else 0)
        if enough(middle):
            low = middle
        else:
            high = middle
    return float(rates[low])


def _power(kind: Kind, n: int, rate: float, drop: float, tolerance: float, alpha: float) -> float:
    if kind == "agreement":
        return power_agreement(n, rate, tolerance, alpha)
    p01, p10 = (rate - drop) / 2, (rate + drop) / 2
    if kind == "binary":
        return power_binary(n, p01, p10, tolerance, alpha)
    total = 10_000
    lost, won = round(p10 * total), round(p01 * total)
    drops = np.repeat([1.0, -1.0, 0.0], [lost, won, total - lost - won])
    # Twenty pseudo-examples weigh little: the default stands for what the search will measure.
    prior = max(rate, DEFAULT_SECOND_MOMENT)
    return power_betting(n, drops, tolerance, alpha, v_search=prior, simulations=300)


def _smallest(enough: Callable[[int], bool], guess: int) -> int:
    """Smallest n that is enough, searched outwards from a guess."""
    low, high = 0, max(guess, 1)
    while not enough(high):
        low, high = high, math.ceil(high * 1.25) + 1
        if high > _MOST_EXAMPLES:
            raise ValueError(f"more than {_MOST_EXAMPLES:,} examples would be needed")
    if low == 0:
        step = max(1, high // 8)
        low = high - step
        while low > 0 and enough(low):
            high, low = low, low - step
            step *= 2
        low = max(low, 0)
    while high - low > 1:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle
    return high


def _normal_guess(rate: float, drop: float, tolerance: float, alpha: float, power: float) -> int:
    z_alpha, z_power = normal_quantile(1 - alpha), normal_quantile(power)
    null = math.sqrt(max(rate, tolerance) - tolerance**2)
    alternative = math.sqrt(max(rate - drop**2, 0.0))
    normal = ((z_alpha * null + max(z_power, 0.0) * alternative) / (tolerance - drop)) ** 2
    return math.ceil(max(normal, math.log(alpha) / math.log1p(-tolerance)))


def _normal_rate(n: int, tolerance: float, alpha: float, power: float) -> float:
    z = normal_quantile(1 - alpha) + max(normal_quantile(power), 0.0)
    return min(1.0, n * (tolerance / z) ** 2)


def _likely_most(n: int, p: float) -> int:
    """A count that a binomial exceeds with probability below 1e-8, rounded up to a few sizes.

    Rounded, so that neighbouring questions share one cached rejection region.
    """
    most = n * p + 6 * math.sqrt(n * p * (1 - p)) + 14
    return min(n, math.ceil(1.25 ** math.ceil(math.log(most, 1.25))))
