"""What the statistics are put through: the same scenarios in CI (2,000 runs) and here (10,000).

A scenario draws many proof sets whose true drop is ``drop`` and counts the proofs. At
``drop = TOLERANCE`` every proof is false; below it, the share proven is the power.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from strop.proof import (
    agreement_p,
    betting_upper,
    clopper_pearson,
    fixed_sequence,
    launch_log_ratio,
    ledger_alpha,
    mean_interval,
    quantile_interval,
    ratio_interval,
    rejection_region,
    trinomial_upper,
)
from strop.proof.betting import max_log_capital

ALPHA = 0.05
TOLERANCE = 0.01

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rng = np.random.Generator


@dataclass(frozen=True)
class Scenario:
    """``count(runs, rng, drop)`` proofs; ``power_drop`` is where the power is taken."""

    name: str
    count: Callable[[int, Rng, float], int]
    power_drop: float = 0.0


@dataclass(frozen=True)
class Coverage:
    """``count(runs, rng)`` intervals that hold the truth, of nominal share ``confidence``."""

    name: str
    count: Callable[[int, Rng], int]
    confidence: float


@dataclass(frozen=True)
class Control:
    """A method that is not for proof; ``count(runs, rng)`` false proofs."""

    name: str
    count: Callable[[int, Rng], int]


# ---------------------------------------------------------------- 0/1 scores


def paired_counts(n: int, p01: float, p10: float, runs: int, rng: Rng) -> tuple[Ints, Ints]:
    cells = rng.multinomial(n, [p10, p01, max(0.0, 1 - p10 - p01)], size=runs)
    return cells[:, 0], cells[:, 1]


def trinomial_proves(b: Ints, c: Ints, n: int, alpha: float = ALPHA) -> NDArray[np.bool_]:
    return rejection_region(n, TOLERANCE, alpha, int(c.max())).contains(b, c)


def trinomial(n: int, p01: float) -> Scenario:
    def count(runs: int, rng: Rng, drop: float) -> int:
        b, c = paired_counts(n, p01, p01 + drop, runs, rng)
        return int(trinomial_proves(b, c, n).sum())

    return Scenario(f"exact trinomial, n={n}, p01={p01:g}", count)


def agreement(n: int) -> Scenario:
    def count(runs: int, rng: Rng, drop: float) -> int:
        changed = rng.binomial(n, drop, size=runs)
        proves = np.array([agreement_p(k, n, TOLERANCE) <= ALPHA for k in range(changed.max() + 1)])
        return int(proves[changed].sum())

    return Scenario(f"Clopper-Pearson agreement, n={n}", count, power_drop=0.002)


# ---------------------------------------------------------------- bounded real scores


def two_point(shape: tuple[int, int], rng: Rng, drop: float) -> Floats:
    return (rng.random(shape) < drop).astype(np.float64)


def three_point(shape: tuple[int, int], rng: Rng, drop: float) -> Floats:
    u = rng.random(shape)
    return (u < 0.01 + drop).astype(np.float64) - (u > 0.99)


def noise(shape: tuple[int, int], rng: Rng, drop: float) -> Floats:
    return drop + rng.uniform(-0.2, 0.2, shape)


def rare_losses(shape: tuple[int, int], rng: Rng, drop: float) -> Floats:
    """Nearly always slightly better, rarely a complete loss: the hardest for a mean."""
    gain = 0.005
    return np.where(rng.random(shape) < (drop + gain) / (1 + gain), 1.0, -gain)


Draw = Callable[[tuple[int, int], Rng, float], Floats]


def betting(draw: Draw, n: int, v_search: float) -> Scenario:
    def count(runs: int, rng: Rng, drop: float) -> int:
        d = draw((n, runs), rng, drop)
        return _bets_proven(d, np.ones((n, 1)), v_search)

    name = draw.__name__.replace("_", " ")
    return Scenario(f"betting, {name}, n={n}, v_search={v_search:g}", count)


def _bets_proven(drop: Floats, weight: Floats, v_search: float) -> int:
    capital = max_log_capital(drop, weight, np.float64(TOLERANCE), v_search=v_search, alpha=ALPHA)
    return int(np.sum(capital >= -math.log(ALPHA)))


# ---------------------------------------------------------------- clusters


def equal_clusters(shape: tuple[int, int], rng: Rng, drop: float) -> tuple[Ints, Floats]:
    """Groups of five that stand or fall together."""
    return np.full(shape, 5), three_point(shape, rng, drop)


def mixed_clusters(shape: tuple[int, int], rng: Rng, drop: float) -> tuple[Ints, Floats]:
    """Groups of one to five that stand or fall together."""
    return rng.integers(1, 6, shape), three_point(shape, rng, drop)


def informative_clusters(shape: tuple[int, int], rng: Rng, drop: float) -> tuple[Ints, Floats]:
    """All losses sit in the large groups: the mean over groups would look better."""
    size = rng.choice([1, 5], p=[0.75, 0.25], size=shape)
    share_large = 0.25 * 5 / (0.75 + 0.25 * 5)  # of the examples
    lost = (size == 5) & (rng.random(shape) < drop / share_large)
    return size, lost.astype(np.float64)


Clusters = Callable[[tuple[int, int], Rng, float], tuple[Ints, Floats]]


def clustered(draw: Clusters, groups: int) -> Scenario:
    def count(runs: int, rng: Rng, drop: float) -> int:
        size, d = draw((groups, runs), rng, drop)
        largest = size.max(axis=0)
        return _bets_proven(size * d / largest, size / largest, 0.01)

    return Scenario(f"clustered betting, {draw.__name__.replace('_', ' ')}, {groups} groups", count)


# ---------------------------------------------------------------- many candidates, many runs


def search_then_prove(n: int) -> Scenario:
    """Six candidates, correlated, ordered by a noisy search, tested in fixed sequence."""
    shares = np.array([0.2, 0.6, 1.0, 1.0, 1.1, 1.5])  # of the drop at which the scenario runs
    null = shares >= 1

    def count(runs: int, rng: Rng, drop: float) -> int:
        drops = shares * drop
        p01 = 0.01
        region = rejection_region(n, TOLERANCE, ALPHA, n // 20)
        found = 0
        per_run = np.empty((runs, len(shares)), dtype=np.bool_)
        searched = np.empty((runs, len(shares)))
        for run in range(runs):
            # One uniform an example for all candidates: hard examples are hard for each of them.
            u = rng.random(n)
            b = np.searchsorted(np.sort(u), p01 + drops)
            c = np.full(len(shares), np.sum(u > 1 - p01))
            per_run[run] = region.contains(b, c)
            searched[run] = drops + rng.normal(0, 0.004, len(shares))
        for proves, order in zip(per_run, np.argsort(searched, axis=1), strict=True):
            p_values = np.where(proves[order], 0.0, 1.0).tolist()
            accepted = np.array(fixed_sequence(p_values, ALPHA))
            wrong = accepted & null[order]
            found += bool(wrong.any()) if drop >= TOLERANCE else bool(accepted[0])
        return found

    return Scenario(f"whole search: 6 candidates in fixed sequence, n={n}", count)


def reruns(n: int, *, ledger: bool = True) -> Scenario:
    """Ten runs on one proof set, a new candidate each time; any false proof counts."""

    def count(runs: int, rng: Rng, drop: float) -> int:
        proven = np.zeros(runs, dtype=np.bool_)
        for run in range(1, 11):
            b, c = paired_counts(n, 0.01, 0.01 + drop, runs, rng)
            alpha = ledger_alpha(ALPHA, run) if ledger else ALPHA
            proven |= trinomial_proves(b, c, n, alpha)
        return int(proven.sum())

    return Scenario(f"10 reruns {'under the ledger' if ledger else 'at full α'}, n={n}", count)


SCENARIOS = [
    trinomial(301, 0.0),
    trinomial(500, 0.0),
    trinomial(500, 0.002),
    trinomial(1000, 0.005),
    trinomial(1000, 0.1),
    trinomial(3000, 0.025),
    agreement(299),
    agreement(1000),
    betting(two_point, 1000, 0.01),
    betting(two_point, 1000, 0.0),
    betting(three_point, 1000, 0.02),
    betting(three_point, 2000, 0.02),
    betting(noise, 1000, 0.0133),
    betting(noise, 1000, 1.0),
    betting(rare_losses, 1000, 0.01),
    clustered(equal_clusters, 1200),
    clustered(mixed_clusters, 1200),
    clustered(informative_clusters, 1200),
    search_then_prove(2000),
    reruns(2000),
]


# ---------------------------------------------------------------- coverage


def upper_trinomial(runs: int, rng: Rng) -> int:
    n, p01, p10 = 400, 0.02, 0.03
    b, c = paired_counts(n, p01, p10, runs, rng)
    bounds: dict[tuple[int, int], float] = {}
    covered = 0
    for pair in zip(b.tolist(), c.tolist(), strict=True):
        if pair not in bounds:
            bounds[pair] = trinomial_upper(*pair, n, ALPHA)
        covered += bounds[pair] >= p10 - p01
    return covered


def upper_betting(runs: int, rng: Rng) -> int:
    covered = 0
    for _ in range(runs):
        d = rare_losses((300, 1), rng, 0.02)[:, 0]
        covered += betting_upper(d, ALPHA, v_search=0.02) >= 0.02
    return covered


def binomial_interval(runs: int, rng: Rng) -> int:
    k = rng.binomial(200, 0.03, size=runs)
    intervals = {x: clopper_pearson(x, 200, ALPHA) for x in set(k.tolist())}
    return sum(intervals[x][0] <= 0.03 <= intervals[x][1] for x in k.tolist())


def wilson_interval(runs: int, rng: Rng) -> int:
    k = rng.binomial(500, 0.9, size=runs)
    intervals = {x: mean_interval(x, 500) for x in set(k.tolist())}
    return sum(intervals[x][0] <= 0.9 <= intervals[x][1] for x in k.tolist())


def launches(runs: int, rng: Rng, method: str, speedup: float) -> int:
    """Ten launches of five ABBA quads: launches differ, quads within one hardly."""
    truth, covered = math.log(speedup), 0
    for _ in range(runs):
        level = rng.normal(truth, 0.03, 10)
        times = np.exp(rng.normal(0, 0.01, (10, 5, 4)) + 0.02 * np.arange(4))
        times[:, :, 1:3] *= np.exp(-level)[:, None, None]
        logs = [launch_log_ratio(quads) for quads in times]
        interval = ratio_interval(logs, 0.95, method)  # type: ignore[arg-type]
        covered += interval.low <= speedup <= interval.high
    return covered


def quantile(runs: int, rng: Rng, q: float) -> int:
    truth = -math.log(1 - q)
    intervals = (quantile_interval(rng.exponential(size=1000), q) for _ in range(runs))
    return sum(i.low <= truth <= i.high for i in intervals)


COVERAGES = [
    Coverage("trinomial upper bound", upper_trinomial, 0.95),
    Coverage("betting upper bound", upper_betting, 0.95),
    Coverage("Clopper-Pearson interval", binomial_interval, 0.95),
    Coverage("t interval over launches", lambda r, g: launches(r, g, "t", 1.5), 0.95),
    Coverage("t interval over A/A launches", lambda r, g: launches(r, g, "t", 1.0), 0.95),
    Coverage(
        "Hodges-Lehmann over launches", lambda r, g: launches(r, g, "hodges-lehmann", 1.5), 0.95
    ),
    Coverage("median order-statistic interval", lambda r, g: quantile(r, g, 0.5), 0.95),
    Coverage("p99 order-statistic interval", lambda r, g: quantile(r, g, 0.99), 0.95),
    Coverage("Wilson interval at 95% (for display; held to 94%)", wilson_interval, 0.94),
]


# ---------------------------------------------------------------- never for proof


def mcnemar_with_margin(runs: int, rng: Rng) -> int:
    n = 500
    b, c = paired_counts(n, 0.0, TOLERANCE, runs, rng)
    discordant = np.maximum(b + c, 1)  # no discordant pair: z = -5, "proven" as any Wald would
    return int(np.sum((b - c - n * TOLERANCE) / np.sqrt(discordant) <= -1.645))


def wald(runs: int, rng: Rng) -> int:
    n = 500
    b, c = paired_counts(n, 0.001, 0.001 + TOLERANCE, runs, rng)
    mean = (b - c) / n
    error = np.sqrt(np.maximum((b + c) / n - mean**2, 0) / n)
    return int(np.sum(mean + 1.645 * error < TOLERANCE))


def rows_as_if_independent(runs: int, rng: Rng) -> int:
    groups, size = 400, 5
    b, c = paired_counts(groups, 0.01, 0.01 + TOLERANCE, runs, rng)
    return int(trinomial_proves(size * b, size * c, groups * size).sum())


def reruns_at_full_alpha(runs: int, rng: Rng) -> int:
    return reruns(2000, ledger=False).count(runs, rng, TOLERANCE)


def best_of_five_timings(runs: int, rng: Rng) -> int:
    """Five equally fast engines timed again, the best reported as faster than the original."""
    logs = rng.normal(0, 0.03, (runs, 5, 10))
    lower = logs.mean(axis=2) - 2.262 * logs.std(axis=2, ddof=1) / math.sqrt(10)
    return int(np.sum(lower.max(axis=1) > 0))


CONTROLS = [
    Control("McNemar with the margin plugged in, p01=0, n=500", mcnemar_with_margin),
    Control("Wald, p01=0.001, n=500", wald),
    Control("rows taken as independent, groups of 5", rows_as_if_independent),
    Control("10 reruns at full α", reruns_at_full_alpha),
    Control("best of five timings reported (2.5% for one)", best_of_five_timings),
]
