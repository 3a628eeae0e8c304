"""Joules from usages, watts from a processor's name, money from joules' sibling, throughput."""

from __future__ import annotations

import math

import pytest

from strop.measure import Usage, Watts, cost, describe, energy, saving, watts
from strop.records import Price

WATTS = Watts(4.0, "given")


def test_an_estimate_is_cpu_seconds_times_watts() -> None:
    used = [Usage(10, 1.0, 0.5), Usage(20, 2.0, 1.0)]
    found = energy(used, batch=5, watts=WATTS, kind="estimated")
    assert found is not None
    assert found.kind == "estimated" and found.watts_per_core == 4.0 and found.launches == 2
    assert found.cpu_seconds == pytest.approx(0.01)
    assert found.joules.estimate == pytest.approx(0.04)
    assert found.idle_watts is None
    assert "4 W" in found.formula and "given" in found.source


def test_a_measurement_is_joules_over_inferences_with_the_idle_watts_beside_it() -> None:
    used = [Usage(10, 1.0, 0.5, 30.0), Usage(10, 1.0, 0.5, 20.0)]
    found = energy(
        used, batch=1, watts=WATTS, kind="measured", counters="RAPL package-0", idle_watts=9.0
    )
    assert found is not None
    assert found.kind == "measured" and found.source == "RAPL package-0"
    assert found.joules.low < found.joules.estimate < found.joules.high
    assert found.joules.estimate == pytest.approx(math.sqrt(3 * 2))
    assert found.idle_watts == 9.0 and found.watts_per_core is None


def test_one_launch_has_no_interval() -> None:
    found = energy([Usage(1, 1.0, 1.0)], batch=1, watts=WATTS, kind="estimated")
    assert found is not None and (found.joules.low, found.joules.high) == (0.0, math.inf)


def test_nothing_is_told_of_nothing() -> None:
    assert energy([], batch=1, watts=WATTS, kind="estimated") is None
    assert energy([Usage(5, 1.0, 0.0)], batch=1, watts=WATTS, kind="estimated") is None
    assert saving([], [], "original") is None
    assert saving([Usage(1, 1.0, 1.0)], [Usage(1, 1.0, 0.0)], "original") is None


def test_figures_of_two_kinds_are_not_comparable() -> None:
    used = [Usage(10, 1.0, 0.5, 30.0)]
    measured = energy(used, batch=1, watts=WATTS, kind="measured", counters="RAPL package-0")
    estimated = energy(used, batch=1, watts=WATTS, kind="estimated")
    other = energy(used, batch=1, watts=Watts(5.0, "given"), kind="estimated")
    assert measured is not None and estimated is not None and other is not None
    assert measured.comparable(measured) and estimated.comparable(estimated)
    assert not measured.comparable(estimated) and not estimated.comparable(other)


def test_a_saving_is_of_one_kind_on_both_sides() -> None:
    counted = [Usage(10, 1.0, 1.0, 40.0), Usage(10, 1.0, 1.0, 42.0)]
    less = [Usage(10, 1.0, 0.1, 20.0), Usage(10, 1.0, 0.1, 21.0)]
    measured = saving(counted, less, "original")
    assert measured is not None and measured.kind == "measured"
    assert measured.ratio.estimate == pytest.approx(2.0)
    # One side without counters: both by their CPU seconds.
    bare = [Usage(used.calls, used.seconds, used.cpu_seconds) for used in less]
    estimated = saving(counted, bare, "original")
    assert estimated is not None and estimated.kind == "estimated"
    assert estimated.ratio.estimate == pytest.approx(10.0)
    # Asked for what cannot be told: nothing.
    assert saving(counted, bare, "original", kind="measured") is None


@pytest.mark.parametrize(
    ("cpu", "per_core"),
    [
        ("AMD EPYC 7763 64-Core Processor", 280 / 128),
        ("Intel(R) Xeon(R) Platinum 8380 CPU @ 2.30GHz", 270 / 80),
        ("Intel(R) Xeon(R) Platinum 8480+", 350 / 112),
        ("12th Gen Intel(R) Core(TM) i7-12700K", 3.5),  # another processor than the i7-12700
        ("AMD EPYC", 3.5),
    ],
)
def test_watts_go_by_the_processor(cpu: str, per_core: float) -> None:
    machine = describe().model_copy(update={"cpu": cpu})
    found = watts(machine)
    assert found.per_core == pytest.approx(per_core)
    assert found.source
    assert watts(machine, 7.5) == Watts(7.5, "given")


def test_cost_at_full_use_and_at_a_rate() -> None:
    found = cost(Price(per_hour=3.6, currency="$"), 1000.0)
    assert found.per_million == pytest.approx(1.0)
    assert found.machines is None and found.per_million_at_rate is None
    at_rate = cost(Price(per_hour=3.6), 1000.0, rate=2500.0)
    assert at_rate.machines == 3
    assert at_rate.per_million_at_rate == pytest.approx(3 * 1e-3 / 2500 * 1e6)
    assert cost(Price(per_hour=3.6), 1000.0, rate=2500.0, max_utilisation=0.5).machines == 5


@pytest.mark.parametrize(("rate", "machines"), [(1e-3, 1), (300.0, 3), (300.01, 4)])
def test_machines_are_whole(rate: float, machines: int) -> None:
    # 0.1 · 1000 is not 100 in binary: a rounding error must not buy a machine.
    found = cost(Price(per_hour=1), 1000.0, rate=rate, max_utilisation=0.1)
    assert found.machines == machines


def test_savings_are_those_of_an_inference_whatever_a_call_holds() -> None:
    one, eight = [Usage(10, 1.0, 2.0)], [Usage(10, 1.0, 4.0)]
    found = saving(one, eight, "original", batches=(1, 8))
    assert found is not None and found.ratio.estimate == pytest.approx(4.0)
