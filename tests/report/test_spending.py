"""Energy and cost on the before/after page, on the last screen, and in results without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from strop import report
from strop.cli.verdict import print_verdict
from strop.measure import cost
from strop.records import Candidate, Cost, Energy, Interval, Price, Result, Saving, Target
from strop.report import glance, wording
from strop.report.numbers import Score, joules
from strop.search import Outcome

from . import made
from .reading import Page


def energy(
    value: float, kind: Literal["measured", "estimated"] = "estimated", idle: float | None = None
) -> Energy:
    return Energy(
        kind=kind,
        source="CPU time at 3.5 W (given)" if kind == "estimated" else "RAPL package-0",
        joules=Interval(estimate=value, low=0.98 * value, high=1.02 * value),
        cpu_seconds=value / 3.5,
        launches=10,
        formula="CPU seconds × 3.5 W" if kind == "estimated" else "joules ÷ inferences",
        watts_per_core=3.5 if kind == "estimated" else None,
        idle_watts=idle,
    )


def told(candidate: Candidate, **changes: Any) -> Candidate:
    return candidate.model_copy(update={"evidence": candidate.evidence.model_copy(update=changes)})


def money(throughput: float) -> Cost:
    price = Price(per_hour=0.18, currency="$")
    return cost(price, throughput, rate=1000.0, max_utilisation=0.7, bound="p99 as stated")


def spending(goal: str = "latency", kinds: tuple[Any, Any, Any] = ("estimated",) * 3) -> Result:
    """The made-up result with energy and cost of all three."""
    base = made.improved()
    saving = Saving(
        against="original",
        kind=kinds[2],
        ratio=Interval(estimate=3.0, low=2.9, high=3.1),
        launches=10,
    )
    idle = 9.0 if kinds[2] == "measured" else None
    return base.model_copy(
        update={
            "target": Target(
                machine=made.MACHINE,
                goal=goal,  # type: ignore[arg-type]
                price=Price(per_hour=0.18, currency="$"),
                rate=1000.0,
                max_utilisation=0.7,
            ),
            "original": told(base.original, energy=energy(0.03, kinds[0]), cost=money(150.0)),
            "equivalent": told(base.equivalent, energy=energy(0.02, kinds[1]), cost=money(230.0)),
            "delivered": told(
                base.delivered,
                energy=energy(0.01, kinds[2], idle),
                savings=(saving,),
                cost=money(430.0),
            ),
        }
    )


def names(result: Result) -> list[str]:
    return [row.name for row in glance.glance(result, Score.of(result)).rows]


def test_everything_is_stated_together() -> None:
    found = names(spending())
    for wanted in (
        "Median call",
        "99% of calls within",
        "Examples a second",
        "Peak memory",
        "File",
        "Energy an inference",
        "Cost a million",
        "Cost a million at 1,000/s",
    ):
        assert wanted in found


def test_figures_carry_their_kind_and_the_machines_their_number() -> None:
    rows = {row.name: row for row in glance.glance(spending(), Score.of(spending())).rows}
    row = rows["Energy an inference"]
    assert row.note == "estimated"
    assert [cell.text for cell in row.cells] == ["30.0 mJ", "20.0 mJ", "10.0 mJ"]
    assert row.cells[2].note == "9.80 mJ to 10.2 mJ"
    notes = [cell.note for cell in rows["Cost a million at 1,000/s"].cells]
    assert notes == ["10 machines", "7 machines", "4 machines"]
    assert rows["Cost a million"].cells[2].text == "$0.116"


def test_two_kinds_never_share_a_row() -> None:
    result = spending(kinds=("estimated", "estimated", "measured"))
    rows = [
        row
        for row in glance.glance(result, Score.of(result)).rows
        if row.name == "Energy an inference"
    ]
    assert [row.note for row in rows] == ["estimated", "measured"]
    assert [[cell.text for cell in row.cells] for row in rows] == [
        ["30.0 mJ", "20.0 mJ", "–"],
        ["–", "–", "10.0 mJ"],
    ]


def test_the_formula_stands_under_the_table() -> None:
    said = " ".join(wording.spending(spending()))
    assert "Energy is estimated: CPU seconds × 3.5 W (given)." in said
    assert "3.00× the energy" in said and "Cost at $0.18/h a machine: p99 as stated." in said
    measured = " ".join(wording.spending(spending(kinds=("measured",) * 3)))
    assert "RAPL package-0. Idle, the counters showed 9.00 W." in measured


@pytest.mark.parametrize(
    ("goal", "start"),
    [("energy", "3.0× less energy (estimated)"), ("cost", "2.9× cheaper")],
)
def test_the_headline_speaks_of_the_goal(goal: str, start: str) -> None:
    result = spending(goal)
    assert wording.headline(result, Score.of(result)).startswith(start)


def test_the_page_shows_it_and_is_whole(tmp_path: Path) -> None:
    folder = made.folder(tmp_path / "out", spending())
    text = report.write(folder).read_text(encoding="utf-8")
    assert Page(text).faults == []
    for wanted in ("Energy an inference", "Cost a million", "Price of a machine", "3.5 W"):
        assert wanted in text


def test_the_last_screen_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_verdict(Outcome(spending(), tmp_path))
    shown = capsys.readouterr().out
    for wanted in (
        "examples a second",
        "10 mJ estimated",
        "cost a million",
        "at 1 k/s",
        "on 4",
        "3.00× [2.90, 3.10] less energy than the original, estimated",
        "energy estimated: CPU seconds × 3.5 W",
    ):
        assert wanted in shown


def test_results_of_earlier_versions_open_and_show_no_such_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = json.loads(made.improved().to_json())
    for candidate in (values["original"], values["equivalent"], values["delivered"]):
        for name in ("energy", "savings", "cost"):
            del candidate["evidence"][name]
    for name in ("price", "rate", "max_utilisation", "watts_per_core"):
        del values["target"][name]
    old = Result.from_dict(values)
    assert old == made.improved()
    assert not any("nergy" in name or "Cost" in name for name in names(old))
    assert wording.spending(old) == []
    report.write(made.folder(tmp_path / "out", old))
    print_verdict(Outcome(old, tmp_path))
    assert "energy" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.5, "2.50 J"), (0.0123, "12.3 mJ"), (4.2e-5, "42.0 µJ"), (3e-8, "30.0 nJ"), (None, "–")],
)
def test_joules_have_a_prefix(value: float | None, text: str) -> None:
    assert joules(value) == text
