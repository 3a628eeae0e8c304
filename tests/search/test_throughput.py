"""A throughput goal: calls that run at once, counted; a latency goal knows nothing of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strop import engines, measure, models, report
from strop.bundle import load, recompute, verify
from strop.measure import PairTiming, describe
from strop.models.model import Model
from strop.records import Goal, Target
from strop.search import Request, optimize
from strop.search.space import joint_space, placements

from .digits import write_data, write_model
from .short import BUDGET, shorten


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "digits.onnx")


def target(goal: Goal, cores: int, threads: int | None = None) -> Target:
    machine = describe().model_copy(update={"cpus": tuple(range(cores))})
    return Target(machine=machine, goal=goal, threads=threads)


@pytest.mark.parametrize(
    ("cores", "threads", "expected"),
    [
        (1, None, [(None, 1)]),
        (2, None, [(None, 1), (1, 2)]),
        (8, None, [(None, 1), (4, 2), (2, 4), (1, 8)]),
        (8, 2, [(2, 1), (2, 4)]),
        (2, 2, [(2, 1)]),
    ],
)
def test_the_cores_are_dealt_out(
    cores: int, threads: int | None, expected: list[tuple[int | None, int]]
) -> None:
    engine = engines.get("onnxruntime")
    assert placements(engine, target("throughput", cores, threads)) == expected
    assert placements(engine, target("latency", cores, threads)) == [(threads, 1)]


def test_an_engine_without_streams_is_called_once_at_a_time() -> None:
    assert placements(engines.get("torch"), target("throughput", 8)) == [(None, 1)]


def test_only_a_throughput_goal_widens_the_space(model: Path, tmp_path: Path) -> None:
    imported: Model = models.load(model, workdir=tmp_path / "imported")
    latency = joint_space(imported, target("latency", 4), only_techniques=[])
    wider = joint_space(imported, target("throughput", 4), only_techniques=[])
    assert {recipe.id for recipe in latency.recipes} <= {recipe.id for recipe in wider.recipes}
    assert all(recipe.deploy.streams == 1 for recipe in latency.recipes)
    at_once = [recipe for recipe in wider.recipes if recipe.deploy.streams > 1]
    assert {recipe.deploy.streams for recipe in at_once} == {2, 4}
    assert all(wider.is_exact(it) for it in at_once if it.deploy.options.get("precision") != "bf16")
    texts = [str(recipe) for recipe in wider.recipes]
    assert len(set(texts)) == len(texts)


def test_a_search_counts_calls_that_run_at_once(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_data(tmp_path / "digits.npz")
    shorten(monkeypatch, patience=1)
    outcome = optimize(
        Request(
            model=model,
            data=data,
            within="3%",
            goal="throughput",
            batch=4,
            budget=BUDGET,
            strategy="exhaustive",  # its second trial has another number of streams
            output=tmp_path / "out",
            engines=["onnxruntime"],
            techniques=[],
        )
    )
    result = outcome.result
    tried = {trial.recipe.deploy.streams for trial in result.trials}
    cores = result.machine.cores
    assert tried == {1} if cores == 1 else {1, 2} <= tried
    raw = json.loads((outcome.bundle / "evidence" / "timings.json").read_bytes())
    assert all(pair["concurrent"] for pair in raw.values())
    (latency,) = result.delivered.evidence.latency
    assert latency.streams == result.delivered.recipe.deploy.streams
    # Counted between calls that end, not computed from how long one of them takes.
    flows = [np.asarray(pair["quads"])[:, :, [1, 2]] for pair in raw.values()]
    rates = [4 / float(np.median(flow)) for flow in flows]
    assert any(latency.throughput == pytest.approx(rate) for rate in rates)
    assert [str(it) for it in recompute(outcome.bundle) if it.agrees is False] == []
    with load(outcome.bundle) as bundle:
        assert bundle.concurrency == latency.streams
    report.write(outcome.folder)
    page = (outcome.folder / "report.html").read_text()
    if latency.streams > 1:
        assert "counted while calls ran at once" in page
    # Timed again as it was won. Which of the two is faster may change; whatever it is, one launch
    # has no interval, and so neither proves nor refutes anything.
    again = heard(monkeypatch)
    found = verify(outcome.bundle, original=model, launches=1)
    (timing,) = again
    assert timing.concurrent == (latency.streams > 1)
    ratio = float(np.exp(timing.log_ratios[0]))
    speed = next(check for check in found.checks if check.name == "speed")
    assert (speed.status, speed.detail.split(" against ")[0]) == (
        "unproven",
        f"{ratio:.2f}× [0.00, inf]",
    )


def heard(patch: pytest.MonkeyPatch) -> list[PairTiming]:
    """What the pairs that are timed from now on by name of the room give."""
    timings: list[PairTiming] = []
    pair = measure.pair

    def listened(*given: Any, **options: Any) -> PairTiming:
        timings.append(pair(*given, **options))
        return timings[-1]

    patch.setattr(measure, "pair", listened)
    return timings
