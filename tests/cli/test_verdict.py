"""What the last lines of a search say."""

from __future__ import annotations

import math

import pytest

from strop.cli import verdict
from strop.cli.spending import how_energy
from strop.records import Candidate, Deployment, Energy, Evidence, Interval, Memory, Recipe


@pytest.mark.parametrize(
    ("size", "text"), [(3_497, "3.5 kB"), (120_000, "0.1 MB"), (31_700_000, "31.7 MB"), (0, "–")]
)
def test_a_small_file_is_not_nothing(size: int, text: str) -> None:
    recipe = Recipe(deploy=Deployment(engine="onnxruntime"))
    evidence = Evidence(memory=Memory(file=size, weights=size, peak=size))
    candidate = Candidate(recipe=recipe, text=str(recipe), evidence=evidence)
    assert verdict._bytes(candidate, "file") == text


def test_the_watts_of_an_estimate_are_told_once() -> None:
    energy = Energy(
        kind="estimated",
        source="CPU time at 3.5 W (a cloud's mean)",
        joules=Interval(estimate=1e-4, low=0.0, high=math.inf),
        cpu_seconds=1e-5,
        launches=1,
        formula="CPU seconds of an inference, all threads, × 3.5 W of a busy core",
        watts_per_core=3.5,
    )
    assert how_energy(energy) == f"energy estimated: {energy.formula} (a cloud's mean)"
    counted = energy.model_copy(
        update={"kind": "measured", "source": "RAPL package 0", "watts_per_core": None}
    )
    assert how_energy(counted) == f"energy measured: {energy.formula}; RAPL package 0"
