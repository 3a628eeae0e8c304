"""The four scenarios of MLPerf inference: what LoadGen is asked, and what its answer means.

P. Mattson et al., "MLPerf inference benchmark", ISCA 2020; the rules are those of
mlcommons/inference_policies and of LoadGen itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from strop.benching.record import Attempt, Checks, Histogram, Scenario, ScenarioResult

SAMPLES_PER_QUERY = 8
"""Of the multi-stream scenario, as the rules fix it."""
PERCENTILES = ("50", "90", "95", "97", "99", "99.9")

_BINS = 60
_LEAST_QUERIES = {"SingleStream": 100, "MultiStream": 662, "Server": 662, "Offline": 1}
"""Early stopping needs 64 queries for a 90th percentile and 662 for a 99th."""
_SLACK = 1.2
_SHORTEST_TRY = 2.0
_START = 0.5
"""Of the rate that one caller could serve, where the search for the highest rate begins."""
_HALVINGS = 3
_DOUBLINGS = 8
_BISECTIONS = 4
_RETRIES = 5
_BACK = 0.93

Run = Callable[[str, Mapping[str, Any], bool], dict[str, Any]]
"""Scenario, settings, whether to keep a trace → what `strop.benching.jobs.run` returns."""


@dataclass(frozen=True)
class Plan:
    """What a scenario is to be run with.

    Attributes
    ----------
    min_duration
        Seconds.
    slo
        The bound on the latency percentile in seconds; None where none was asked for.
    rate
        Queries a second of the server scenario; None finds the highest valid one.
    call_seconds
        Of one call with one example.
    per_second
        Examples a second in full batches.
    """

    min_duration: float
    slo: float | None
    rate: float | None
    call_seconds: float
    per_second: float


def single_stream(run: Run, plan: Plan) -> ScenarioResult:
    """One query after another, each of one sample; the 90th percentile counts."""
    settings = {"single_stream_expected_latency_ns": int(plan.call_seconds * 1e9)}
    told = run("SingleStream", _settings("SingleStream", plan.min_duration, settings), True)
    estimate = told["figures"].get("early_stopping_latency_ss", 0)
    return _result("SingleStream", "90th percentile latency", _seconds(estimate), told, plan.slo)


def multi_stream(run: Run, plan: Plan) -> ScenarioResult:
    """One query after another, each of eight samples; the 99th percentile of queries counts."""
    expected = plan.call_seconds * SAMPLES_PER_QUERY
    settings = {
        "multi_stream_samples_per_query": SAMPLES_PER_QUERY,
        "multi_stream_expected_latency_ns": int(expected * 1e9),
    }
    told = run("MultiStream", _settings("MultiStream", plan.min_duration, settings), True)
    estimate = told["figures"].get("early_stopping_latency_ms", 0)
    return _result("MultiStream", "99th percentile latency", _seconds(estimate), told, plan.slo)


def server(run: Run, plan: Plan) -> ScenarioResult:
    """Queries of one sample arrive at random (Poisson); the rate within the bound counts.

    Without a rate the highest valid one is searched by short runs: doubled until one is invalid,
    bisected, and then lowered by 7% at a time until a run of full length is valid, which it may
    never be on a machine that is busy otherwise.
    """
    assert plan.slo is not None, "the server scenario needs a bound"

    def told_at(rate: float, seconds: float, *, trace: bool) -> dict[str, Any]:
        settings = {
            "server_target_qps": rate,
            "server_target_latency_ns": int((plan.slo or 0.0) * 1e9),
            "server_target_latency_percentile": 0.99,
        }
        return run("Server", _settings("Server", seconds, settings), trace)

    attempts: list[Attempt] = []

    def holds(rate: float) -> bool:
        told = told_at(rate, min(_SHORTEST_TRY, plan.min_duration), trace=False)
        valid = bool(told["figures"]["result_validity"] == "VALID")
        p99 = _seconds(told["figures"]["result_99.00_percentile_latency_ns"]) or 0.0
        attempts.append(Attempt(rate=rate, valid=valid, p99_seconds=p99))
        return valid

    rate = plan.rate
    if rate is None:
        rate = _highest(holds, _START / plan.call_seconds)
    told = told_at(rate, plan.min_duration, trace=True)
    for _ in range(_RETRIES):
        if plan.rate is not None or told["figures"]["result_validity"] == "VALID":
            break
        rate *= _BACK
        told = told_at(rate, plan.min_duration, trace=True)
    found = _result(
        "Server",
        "completed samples a second",
        float(told["figures"]["result_completed_samples_per_sec"]),
        told,
        plan.slo,
    )
    return found.model_copy(update={"rate": rate, "attempts": tuple(attempts)})


def offline(run: Run, plan: Plan) -> ScenarioResult:
    """All samples at once; samples a second count."""
    expected = plan.per_second
    told: dict[str, Any] = {}
    for _ in range(_RETRIES):
        settings = {"offline_expected_qps": expected * _SLACK}
        told = run("Offline", _settings("Offline", plan.min_duration, settings), False)
        if told["figures"]["result_min_duration_met"]:
            break
        # LoadGen makes one query of so many samples before it starts: they were too few.
        expected = max(_SLACK * expected, told["figures"]["result_samples_per_second"])
    return _result(
        "Offline",
        "samples a second",
        float(told["figures"]["result_samples_per_second"]),
        told,
        None,
    )


SCENARIOS: dict[Scenario, Callable[[Run, Plan], ScenarioResult]] = {
    "SingleStream": single_stream,
    "MultiStream": multi_stream,
    "Server": server,
    "Offline": offline,
}


def histogram(seconds: np.ndarray) -> Histogram:
    """Counts in bins that are evenly spaced in the logarithm, from the shortest to the longest.

    Examples
    --------
    >>> sum(histogram(np.array([0.001, 0.002, 0.1])).counts)
    3
    """
    low, high = float(seconds.min()), float(seconds.max())
    if not 0 < low < high:
        edges = np.array([low, high if high > low else np.nextafter(low, math.inf)])
    else:
        edges = np.geomspace(low, high, _BINS + 1)
        edges[0], edges[-1] = low, high
    counts, _ = np.histogram(seconds, edges)
    return Histogram(edges=tuple(map(float, edges)), counts=tuple(map(int, counts)))


def _settings(scenario: str, seconds: float, more: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "min_duration_ms": math.ceil(seconds * 1000),
        "min_query_count": _LEAST_QUERIES[scenario],
        **more,
    }


def _highest(holds: Callable[[float], bool], start: float) -> float:
    """The highest rate that held, to some percent.

    `start` is halved a few times only: what does not hold at an eighth of the load fails for
    another reason than the load, and so few queries take minutes.
    """
    low = start
    found = False
    for _ in range(_HALVINGS):
        if found := holds(low):
            break
        low /= 2
    if not found:
        return low
    high = 2 * low
    for _ in range(_DOUBLINGS):
        if not holds(high):
            break
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _result(
    scenario: Scenario,
    metric: str,
    value: float | None,
    told: Mapping[str, Any],
    slo: float | None,
) -> ScenarioResult:
    found = told["figures"]
    kind = "_per_query" if scenario == "MultiStream" else ""
    names = {"99.9": "99.90", **{name: f"{name}.00" for name in PERCENTILES if "." not in name}}
    percentiles = {
        name: found[f"result_{names[name]}_percentile{kind}_latency_ns"] / 1e9
        for name in PERCENTILES
    }
    mean = found["result_mean_query_latency_ns" if kind else "result_mean_latency_ns"] / 1e9
    kept: bool | None = None
    if scenario == "Server":
        kept = bool(found.get("result_perf_constraints_met", False))
    elif slo is not None:
        kept = value is not None and value <= slo
    traced = told["latencies"]
    why = [str(found.get("result_invalid_reason", "")), *found["errors"]]
    return ScenarioResult(
        scenario=scenario,
        valid=found["result_validity"] == "VALID" and not found["errors"],
        metric=metric,
        value=value,
        why=" ".join(" ".join(why).split()),
        checks=Checks(
            min_duration=bool(found["result_min_duration_met"]),
            min_queries=bool(found["result_min_queries_met"]),
            early_stopping=bool(found["early_stopping_met"]),
            latency=found.get("result_perf_constraints_met"),
        ),
        early_stopping=_sentence(str(found.get("early_stopping_result", ""))),
        slo_seconds=slo,
        slo_kept=kept,
        rate=None,
        queries=int(found["result_query_count"]),
        samples=int(told["samples"]),
        seconds=float(told["seconds"]),
        samples_per_second=float(told["samples"]) / float(told["seconds"]),
        mean=mean,
        percentiles=percentiles,
        histogram=None if traced is None or not len(traced) else histogram(traced),
        attempts=(),
    )


def _sentence(text: str) -> str:
    """LoadGen's list of stars as one line."""
    parts = [part.strip().rstrip(".;") for part in text.split("*")]
    return "; ".join(part for part in parts if part)


def _seconds(nanoseconds: float) -> float | None:
    """None for 0, which LoadGen writes where it can tell nothing."""
    return nanoseconds / 1e9 if nanoseconds else None
