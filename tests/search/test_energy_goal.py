"""Energy and cost: told by every search, and what a search is for where they are the goal."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from strop.measure import PairTiming, ScreenTiming, Usage, describe
from strop.records import (
    Deployment,
    Energy,
    Evidence,
    Interval,
    Latency,
    Price,
    Recipe,
    Result,
    Saving,
    SearchStarted,
    Speedup,
    Target,
    Trial,
)
from strop.search import Request, Task, optimize
from strop.search.objective import at_once, cost, saved
from strop.search.optimize import _history
from strop.search.retiming import not_better, surely_better
from strop.search.spending import caution, priced, screened, spent

from .digits import write_data, write_model
from .short import BUDGET, shorten


def interval(estimate: float) -> Interval:
    return Interval(estimate=estimate, low=0.9 * estimate, high=1.1 * estimate)


def trial(number: int, *, faster: float, saves: float | None) -> Trial:
    savings = ()
    if saves is not None:
        savings = (Saving(against="anchor", kind="estimated", ratio=interval(saves), launches=1),)
    speedup = Speedup(against="anchor", batch=1, ratio=interval(faster), launches=1)
    return Trial(
        number=number,
        recipe=Recipe(deploy=Deployment(engine="onnxruntime")),
        status="alive",
        stage="time",
        evidence=Evidence(speedups=(speedup,), savings=savings),
    )


def timing(
    faster: float, cpu: tuple[float, float], joules: tuple[float, float] | None = None
) -> PairTiming:
    """Ten launches with a little noise: b so many times faster, CPU seconds of a and b."""
    noise = np.exp(np.random.default_rng(0).normal(0, 0.005, (10, 2)))
    used: list[list[Usage]] = [
        [
            Usage(100, 0.1, cpu[side] * launch[side], joules[side] if joules else None)
            for launch in noise
        ]
        for side in (0, 1)
    ]
    calls = np.full(100, 1e-3)
    return PairTiming(
        log_ratios=np.log(faster) + np.log(noise[:, 0]),
        quads=(),
        a_seconds=(calls,) * 10,
        b_seconds=(calls / faster,) * 10,
        batch=1,
        shortened=False,
        settled=True,
        a_used=tuple(used[0]),
        b_used=tuple(used[1]),
    )


def workspace(goal: str, **changes: Any) -> Any:
    target = Target(machine=describe(), goal=goal, **changes)  # type: ignore[arg-type]
    return SimpleNamespace(task=SimpleNamespace(goal=goal), target=target)


def test_the_goal_energy_wants_what_saves_most_and_cost_what_computes_most() -> None:
    fast, thrifty = trial(1, faster=3.0, saves=1.5), trial(2, faster=1.0, saves=4.0)
    assert cost(thrifty, "energy") < cost(fast, "energy")
    assert cost(fast, "cost") < cost(thrifty, "cost")
    assert cost(fast, "cost") == cost(fast, "throughput")
    slow = trial(4, faster=0.8, saves=9.0)  # could not be delivered, so it must not be chosen
    assert cost(slow, "energy") == float("inf")
    unknown = trial(3, faster=9.0, saves=None)
    assert saved(unknown) is None and cost(unknown, "energy") == float("inf")
    assert at_once("cost") and not at_once("energy")


@pytest.mark.parametrize(
    ("faster", "cpu", "said"),
    [
        (1.2, (0.4, 0.1), ""),
        (1.2, (0.1, 0.1), "not surely taking less energy"),
        (1.2, (0.1, 0.2), "not surely taking less energy"),
        (0.8, (0.4, 0.1), "may be slower"),
    ],
)
def test_less_energy_is_delivered_only_when_sure_and_no_slower(
    faster: float, cpu: tuple[float, float], said: str
) -> None:
    place, found = workspace("energy"), timing(faster, cpu)
    won = trial(1, faster=faster, saves=2.0)
    reason = not_better(place, found, won, trial(0, faster=1.0, saves=1.0))  # type: ignore[arg-type]
    assert said in reason and bool(said) == bool(reason)
    assert surely_better(place, found) == (not said)


def test_counters_win_over_cpu_seconds_where_all_launches_have_them() -> None:
    place = workspace("energy")
    # By CPU seconds b is thriftier, by the counters it is not.
    assert not surely_better(place, timing(1.2, (0.4, 0.1), joules=(1.0, 2.0)))
    assert surely_better(place, timing(1.2, (0.1, 0.4), joules=(2.0, 1.0)))


def test_a_counter_that_stands_still_for_a_round_still_counts_over_all() -> None:
    def rounds(*joules: float) -> ScreenTiming:
        used = tuple(Usage(10, 0.05, 0.05, counted) for counted in joules)
        return ScreenTiming(np.full(3, 5e-3), 1.0, calls=np.full(30, 5e-3), used=used)

    # A board's counter moves every 100 ms or so, a round lasts half of that.
    found = screened(
        Target(machine=describe(), device="cuda:0", goal="energy"),
        SimpleNamespace(placement=SimpleNamespace(threads=1, streams=1)),  # type: ignore[arg-type]
        rounds(0.0, 10.0, 0.0),
        rounds(20.0, 0.0, 20.0),
        kind=None,
        batch=1,
        concurrent=False,
    )
    assert found["energy"].kind == "measured"
    (saved_energy,) = found["savings"]
    assert saved_energy.ratio.estimate == pytest.approx(4.0)


def test_another_device_is_not_told_by_cpu_seconds() -> None:
    target = Target(machine=describe(), device="npu", goal="energy")
    assert spent(target, [Usage(1, 1.0, 1.0)], batch=1, kind="estimated") is None
    assert (
        spent(Target(machine=describe()), [Usage(1, 1.0, 1.0)], batch=1, kind="estimated")
        is not None
    )


def test_a_goal_of_energy_says_how_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = describe()
    assert caution(Target(machine=machine)) == []
    monkeypatch.setattr("strop.search.spending.meter", lambda device: None)
    (line,) = caution(Target(machine=machine, goal="energy"))
    assert line.startswith("energy is estimated")
    (line,) = caution(Target(machine=machine, goal="energy", device="npu"))
    assert "npu" in line


def test_the_watts_that_were_given_are_counted() -> None:
    target = Target(machine=describe(), watts_per_core=7.0)
    found = spent(target, [Usage(10, 1.0, 2.0)], batch=1, kind="estimated")
    assert found is not None and found.joules.estimate == pytest.approx(1.4)
    assert "given" in found.source


def test_cost_is_told_with_its_bound() -> None:
    latency = Latency(
        batch=1,
        threads=1,
        streams=2,
        p50=interval(0.01),
        p90=interval(0.01),
        p99=interval(0.02),
        throughput=200.0,
        launches=1,
        calls=100,
    )
    assert priced(Target(machine=describe()), latency) is None
    price = Price(per_hour=0.72)
    asked = Target(machine=describe(), price=price, rate=300.0, max_utilisation=0.5)
    found = priced(asked, latency)
    assert found is not None
    assert found.per_million == pytest.approx(1.0) and found.machines == 3
    for said in ("50%", "2 calls at once", "20 ms", "waiting not included"):
        assert said in found.bound


def test_a_search_of_an_earlier_version_is_resumed() -> None:
    task = Task(
        model="m",
        model_digest="0",
        data="d",
        data_digest="1",
        tolerance={"value": 0.01},  # type: ignore[arg-type]
        confidence=0.95,
        metric={},
        goal="latency",
        batch=1,
        threads=None,
        max_memory_bytes=None,
        max_p99_seconds=None,
        engines=None,
        techniques=None,
        strategy="evidence",
        seed=0,
    )
    new = ("price", "rate", "max_utilisation", "watts_per_core")
    then = {key: value for key, value in task.to_dict().items() if key not in new}
    started = SearchStarted(task=then, budget_seconds=60, candidates=1)
    assert _history([started], task) == []


def test_a_search_tells_energy_and_cost_of_the_three(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch)
    request = Request(
        model=write_model(tmp_path / "digits.onnx"),
        data=write_data(tmp_path / "digits.npz"),
        within="3%",
        output=tmp_path / "out",
        budget=BUDGET,
        goal="energy",
        engines=["onnxruntime"],
        techniques=["int8-dynamic"],
        price="$0.18/h",
        rate="1000/s",
        watts_per_core="5",
    )
    outcome = optimize(request)
    result = Result.read(outcome.folder / "result.json")
    energies = []
    for found in (result.original, result.equivalent, result.delivered):
        energy, money, (latency,) = (
            found.evidence.energy,
            found.evidence.cost,
            found.evidence.latency,
        )
        assert energy is not None and money is not None
        assert energy.joules.estimate > 0 and energy.launches == latency.launches
        assert money.throughput == latency.throughput
        assert money.machines is not None and money.per_million_at_rate is not None
        energies.append(energy)
    assert all(energy.comparable(energies[0]) for energy in energies)
    if energies[0].kind == "estimated":
        # A mean over launches on the log scale beside one over calls: near, not equal.
        watts = energies[0].joules.estimate / energies[0].cpu_seconds
        assert energies[0].watts_per_core == 5.0 and 1 < watts < 25
    against = {found.against for found in result.delivered.evidence.speedups}
    assert {found.against for found in result.delivered.evidence.savings} == against
    timed = [row for row in outcome.rows() if row["speed"] is not None]
    assert timed
    for row in timed:
        assert row["joules"] > 0 and row["energy"] == energies[0].kind
        assert row["throughput"] > 0 and row["p50_seconds"] > 0 and row["cost_per_million"] > 0


def test_what_earlier_versions_wrote_is_still_read() -> None:
    interval_only = {"estimate": 1.0, "low": 1.0, "high": 1.0, "confidence": 0.95}
    old = {
        "latency": [],
        "speedups": [{"against": "original", "batch": 1, "ratio": interval_only, "launches": 1}],
        "memory": None,
        "notes": [],
    }
    found = Evidence.from_dict(old)
    assert found.energy is None and found.savings == () and found.cost is None
    told = Energy.from_dict(
        Energy(
            kind="estimated",
            source="CPU time at 3.5 W",
            joules=interval(1.0),
            cpu_seconds=0.3,
            launches=2,
            formula="",
        ).to_dict()
    )
    assert told.watts_per_core is None
