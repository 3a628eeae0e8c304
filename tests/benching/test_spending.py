"""Energy and cost of a LoadGen run."""

from __future__ import annotations

import pytest

from strop.benching.record import Checks, ScenarioResult
from strop.benching.spending import Spending
from strop.measure import Usage, Watts
from strop.records import Price

WATTS = Watts(4.0, "given")


def result(slo_kept: bool | None = None) -> ScenarioResult:
    return ScenarioResult(
        scenario="Server",
        valid=True,
        metric="completed samples a second",
        value=100.0,
        why="",
        checks=Checks(min_duration=True, min_queries=True, early_stopping=True, latency=True),
        early_stopping="",
        slo_seconds=None if slo_kept is None else 0.02,
        slo_kept=slo_kept,
        rate=100.0,
        queries=1000,
        samples=1000,
        seconds=10.0,
        samples_per_second=100.0,
        mean=0.01,
        percentiles={},
        histogram=None,
        attempts=(),
    )


def test_a_run_is_told_an_inference() -> None:
    spending = Spending(WATTS, price=Price(per_hour=0.36, currency="$"))
    found = spending.added(result(slo_kept=True), Usage(1000, 10.0, 5.0))
    assert found.energy is not None and found.energy.kind == "estimated"
    assert found.energy.joules.estimate == pytest.approx(0.02)
    assert found.cost is not None and found.cost.per_million == pytest.approx(1.0)
    assert "20 ms kept" in found.cost.bound


def test_counters_are_named_and_no_price_is_no_cost() -> None:
    spending = Spending(WATTS, counters="RAPL package-0", idle_watts=8.0)
    found = spending.added(result(), Usage(1000, 10.0, 5.0, 300.0))
    assert found.energy is not None and found.energy.kind == "measured"
    assert found.energy.joules.estimate == pytest.approx(0.3)
    assert (found.energy.source, found.energy.idle_watts) == ("RAPL package-0", 8.0)
    assert found.cost is None


def test_cpu_seconds_tell_nothing_of_another_device() -> None:
    spending = Spending(WATTS, device="npu")
    assert spending.added(result(), Usage(1000, 10.0, 5.0)).energy is None


def test_results_of_earlier_versions_are_read() -> None:
    old = result().to_dict()
    del old["energy"], old["cost"]
    assert ScenarioResult.from_dict(old) == result()
