"""Latency, energy and cost follow from the raw launches, and beautified ones do not."""

from __future__ import annotations

from typing import Any

import pytest

from strop.bundle import recompute, write
from strop.measure import Usage
from strop.records import Cost, Energy, Evidence, Interval, Latency, Price, Saving

from .conftest import altered

LAUNCHES, CALLS, BATCH = 5, 100, 2


def same(value: float) -> Interval:
    return Interval(estimate=value, low=value, high=value)


def spent(contents: Any, *, kind: str = "estimated", **changes: Any) -> Any:
    """Contents whose delivered takes a third of the original's CPU seconds, and of its joules."""
    evidence: Evidence = contents.evidence.model_copy(
        update={
            "latency": (
                Latency(
                    batch=BATCH,
                    threads=1,
                    p50=same(0.01),
                    p90=same(0.01),
                    p99=same(0.01),
                    throughput=200.0,
                    launches=LAUNCHES,
                    calls=LAUNCHES * CALLS,
                ),
            ),
            # 0.1 CPU seconds at 4 W, or 0.4 J counted, over 200 inferences.
            "energy": Energy(
                kind=kind,  # type: ignore[arg-type]
                source="",
                joules=same(0.002),
                cpu_seconds=0.0005,
                launches=LAUNCHES,
                formula="",
                watts_per_core=4.0 if kind == "estimated" else None,
            ),
            "savings": (
                Saving(against="original", kind=kind, ratio=same(3.0), launches=LAUNCHES),  # type: ignore[arg-type]
            ),
            # 0.0002 a second over 200 inferences a second; three machines at 500 a second.
            "cost": Cost(
                price=Price(per_hour=0.72),
                throughput=200.0,
                per_million=1.0,
                rate=500.0,
                machines=3,
                per_million_at_rate=1.2,
            ),
            **changes,
        }
    )
    counted = kind == "measured"
    raw = contents.timings["original/delivered"]
    timings = {
        "original/delivered": {
            **raw,
            "batch": BATCH,
            "a_seconds": [[0.03] * CALLS] * LAUNCHES,
            "b_seconds": [[0.01] * CALLS] * LAUNCHES,
            "a_used": [Usage(CALLS, 3.0, 0.3, 1.2 if counted else None).to_dict()] * LAUNCHES,
            "b_used": [Usage(CALLS, 1.0, 0.1, 0.4 if counted else None).to_dict()] * LAUNCHES,
        }
    }
    return altered(contents, evidence=evidence, timings=timings)


@pytest.mark.parametrize("kind", ["estimated", "measured"])
def test_they_follow_from_the_launches(make, tmp_path, kind):
    write(tmp_path / "bundle", spent(make(), kind=kind))
    figures = {figure.name: figure for figure in recompute(tmp_path / "bundle")}
    assert all(figure.agrees for figure in figures.values()), [*map(str, figures.values())]
    assert {
        "latency, p99",
        "throughput",
        "energy of an inference, high",
        "energy against original, low",
        "cost of a million",
        "cost of a million at the rate",
    } <= figures.keys()


@pytest.mark.parametrize(
    ("name", "changes", "differs"),
    [
        ("energy", {"joules": same(0.001)}, "energy of an inference"),
        ("savings", {"ratio": same(4.0)}, "energy against original"),
        ("cost", {"per_million": 0.5}, "cost of a million"),
        ("cost", {"per_million_at_rate": 0.4}, "cost of a million at the rate"),
        ("latency", {"throughput": 400.0}, "throughput"),
    ],
)
def test_a_beautified_figure_disagrees(make, tmp_path, name, changes, differs):
    contents = spent(make())
    found = getattr(contents.evidence, name)
    whole = isinstance(found, tuple)
    one = (found[0] if whole else found).model_copy(update=changes)
    evidence = contents.evidence.model_copy(update={name: (one,) if whole else one})
    write(tmp_path / "bundle", altered(contents, evidence=evidence))
    figures = {figure.name: figure for figure in recompute(tmp_path / "bundle")}
    assert figures[differs].agrees is False


def test_what_no_counter_counted_is_not_called_measured(make, tmp_path):
    contents = spent(make(), kind="measured")
    raw = dict(contents.timings["original/delivered"])
    for side in ("a_used", "b_used"):
        raw[side] = [{**launch, "joules": None} for launch in raw[side]]
    write(tmp_path / "bundle", altered(contents, timings={"original/delivered": raw}))
    figures = {figure.name: figure for figure in recompute(tmp_path / "bundle")}
    for name in ("energy of an inference", "energy against original"):
        assert figures[name].agrees is None
        assert "not in the bundle" in figures[name].reason
    assert figures["cost of a million"].agrees


def test_a_batch_of_its_own_counts(make, tmp_path):
    contents = spent(make())
    raw = {**contents.timings["original/delivered"], "b_batch": 2 * BATCH}
    write(tmp_path / "bundle", altered(contents, timings={"original/delivered": raw}))
    figures = {figure.name: figure for figure in recompute(tmp_path / "bundle")}
    assert figures["throughput"].computed == pytest.approx(400.0)
    assert figures["energy of an inference"].computed == pytest.approx(0.001)
    assert figures["energy against original"].computed == pytest.approx(6.0)
