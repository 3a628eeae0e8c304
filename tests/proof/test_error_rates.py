"""Simulations at the boundary E[d] = tolerance, in CI size; benchmarks/statistics runs them full.

At most 131 false proofs in 2,000 runs: an exactly level method at 5% passes with probability
0.999 (binomial), and one with an error rate of 8% fails with probability above 0.99.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.special import bdtr

_FILE = Path(__file__).parents[2] / "benchmarks" / "statistics" / "scenarios.py"
_SPEC = importlib.util.spec_from_file_location("statistics_scenarios", _FILE)
assert _SPEC is not None and _SPEC.loader is not None
scenarios = importlib.util.module_from_spec(_SPEC)
sys.modules["statistics_scenarios"] = scenarios
_SPEC.loader.exec_module(scenarios)

RUNS, MOST_FALSE = 2000, 131


def test_the_limit_passes_level_methods_and_catches_others():
    assert bdtr(MOST_FALSE, RUNS, 0.05) > 0.999
    assert bdtr(MOST_FALSE, RUNS, 0.08) < 0.01


@pytest.mark.parametrize("scenario", scenarios.SCENARIOS, ids=lambda s: s.name)
def test_false_proofs_at_the_boundary(scenario):
    seed = scenarios.SCENARIOS.index(scenario)
    rng = np.random.default_rng(seed)
    assert scenario.count(RUNS, rng, scenarios.TOLERANCE) <= MOST_FALSE


# Least share proven at the scenario's power_drop: a method that never proves would pass above.
LEAST_POWER = {
    "exact trinomial, n=301, p01=0": 1.0,
    "exact trinomial, n=1000, p01=0.005": 0.8,
    "exact trinomial, n=3000, p01=0.025": 0.72,
    "Clopper-Pearson agreement, n=1000": 0.9,
    "betting, three point, n=2000, v_search=0.02": 0.78,
    "betting, noise, n=1000, v_search=0.0133": 0.7,
    "betting, rare losses, n=1000, v_search=0.01": 0.75,
    "clustered betting, equal clusters, 1200 groups": 0.54,
    "whole search: 6 candidates in fixed sequence, n=2000": 0.85,
}


@pytest.mark.parametrize("name", LEAST_POWER)
def test_power_beside(name):
    scenario = next(s for s in scenarios.SCENARIOS if s.name == name)
    proven = scenario.count(500, np.random.default_rng(7), scenario.power_drop)
    assert proven / 500 >= LEAST_POWER[name]


@pytest.mark.parametrize("coverage", scenarios.COVERAGES, ids=lambda c: c.name)
def test_intervals_cover(coverage):
    runs = 500
    covered = coverage.count(runs, np.random.default_rng(11))
    # As many misses as an exact interval has with probability 0.001 are too many.
    assert bdtr(covered, runs, coverage.confidence) > 1e-3


@pytest.mark.parametrize("control", scenarios.CONTROLS, ids=lambda c: c.name)
def test_what_is_never_for_proof_is_caught(control):
    assert control.count(RUNS, np.random.default_rng(13)) > MOST_FALSE
