"""What LoadGen is asked and how its answers are read, with a LoadGen made by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from strop.benching.scenarios import Plan, histogram, multi_stream, offline, server, single_stream

PLAN = Plan(min_duration=2.0, slo=0.02, rate=None, call_seconds=0.01, per_second=400.0)


class Fake:
    """Valid up to `capacity` queries or samples a second."""

    def __init__(self, capacity: float, *, long: float | None = None) -> None:
        self.capacity = capacity
        self.long = capacity if long is None else long
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, scenario: str, settings: Mapping[str, Any], trace: bool) -> dict[str, Any]:
        self.asked.append((scenario, dict(settings)))
        figures: dict[str, Any] = {
            "result_validity": "VALID",
            "result_min_duration_met": True,
            "result_min_queries_met": True,
            "early_stopping_met": True,
            "early_stopping_result": " * Run successful.\n",
            "result_query_count": 700,
            "result_mean_latency_ns": 5_000_000,
            "result_mean_query_latency_ns": 40_000_000,
            "errors": [],
        }
        for name in ("50.00", "90.00", "95.00", "97.00", "99.00", "99.90"):
            figures[f"result_{name}_percentile_latency_ns"] = 6_000_000
            figures[f"result_{name}_percentile_per_query_latency_ns"] = 48_000_000
        if scenario == "SingleStream":
            figures["early_stopping_latency_ss"] = 10_500_000
        if scenario == "MultiStream":
            figures["early_stopping_latency_ms"] = 0
        if scenario == "Server":
            rate = settings["server_target_qps"]
            seconds = settings["min_duration_ms"] / 1000
            held = rate <= (self.long if seconds > 2 else self.capacity)
            figures["result_validity"] = "VALID" if held else "INVALID"
            figures["result_perf_constraints_met"] = held
            figures["result_invalid_reason"] = "" if held else "Reduce target QPS "
            figures["result_completed_samples_per_sec"] = min(rate, self.capacity)
        if scenario == "Offline":
            seconds = settings["offline_expected_qps"] * 2 / self.capacity
            figures["result_min_duration_met"] = seconds >= 2
            figures["result_validity"] = "VALID" if seconds >= 2 else "INVALID"
            figures["result_samples_per_second"] = self.capacity
        spread = np.linspace(0.005, 0.006, 700) if trace else None
        return {"figures": figures, "seconds": 2.0, "samples": 700, "latencies": spread}


def test_single_stream_reports_the_early_stopping_estimate() -> None:
    fake = Fake(100.0)
    found = single_stream(fake, PLAN)
    assert found.value == pytest.approx(0.0105) and found.valid and found.slo_kept
    assert found.early_stopping == "Run successful"
    assert fake.asked[0][1]["min_duration_ms"] == 2000
    assert fake.asked[0][1]["single_stream_expected_latency_ns"] == 10_000_000
    assert found.histogram is not None and sum(found.histogram.counts) == 700


def test_multi_stream_without_an_estimate_reports_none_and_keeps_no_slo() -> None:
    found = multi_stream(Fake(100.0), PLAN)
    assert found.value is None and found.slo_kept is False
    assert found.percentiles["99"] == pytest.approx(0.048)  # of queries, not of samples


def test_the_server_finds_the_highest_rate() -> None:
    found = server(Fake(300.0), PLAN)
    assert found.valid and found.slo_kept
    assert found.rate is not None and 0.95 * 300 <= found.rate <= 300
    assert any(attempt.valid for attempt in found.attempts)
    assert any(not attempt.valid for attempt in found.attempts)


def test_a_rate_that_holds_only_shortly_is_lowered() -> None:
    plan = Plan(min_duration=60.0, slo=0.02, rate=None, call_seconds=0.01, per_second=400.0)
    fake = Fake(300.0, long=270.0)
    found = server(fake, plan)
    assert found.valid and found.rate is not None and 240 <= found.rate <= 270
    assert fake.asked[-1][1]["min_duration_ms"] == 60_000


def test_a_server_that_never_holds_ends_and_says_why() -> None:
    fake = Fake(0.001)
    found = server(fake, PLAN)
    assert not found.valid and found.slo_kept is False
    assert found.why == "Reduce target QPS"
    assert len(fake.asked) < 12


def test_a_given_rate_is_not_searched() -> None:
    plan = Plan(min_duration=2.0, slo=0.02, rate=500.0, call_seconds=0.01, per_second=400.0)
    fake = Fake(300.0)
    found = server(fake, plan)
    assert not found.valid and found.rate == 500 and found.attempts == ()
    assert len(fake.asked) == 1


def test_offline_asks_for_more_samples_until_the_run_is_long_enough() -> None:
    fake = Fake(1000.0)
    found = offline(fake, PLAN)
    assert found.valid and found.value == 1000 and found.histogram is None
    assert len(fake.asked) == 2


def test_errors_of_loadgen_make_a_result_invalid() -> None:
    class Broken(Fake):
        def __call__(self, *arguments: Any) -> dict[str, Any]:
            told = super().__call__(*arguments)
            told["figures"]["errors"] = ["a sample came twice"]
            return told

    found = single_stream(Broken(1.0), PLAN)
    assert not found.valid and "came twice" in found.why


def test_histograms_hold_every_query() -> None:
    random = np.random.default_rng(0)
    seconds = random.lognormal(-5, 1, 5000)
    found = histogram(seconds)
    assert sum(found.counts) == 5000
    assert found.edges[0] == seconds.min() and found.edges[-1] == seconds.max()
    ratios = np.diff(np.log(found.edges))
    np.testing.assert_allclose(ratios, ratios[0])
    assert sum(histogram(np.full(3, 0.5)).counts) == 3
