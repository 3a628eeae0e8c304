"""docs/json.md names every field of every document, and no field that there is not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from strop import benching, profiling, records
from strop.bundle import Verification
from strop.records import Event, Record
from strop.report import record as breakdown
from strop.testing import matrix

PAGE = (Path(__file__).parents[2] / "docs" / "json.md").read_text(encoding="utf-8")

DOCUMENTED: tuple[type[Record], ...] = (
    records.Result,
    records.Network,
    records.Candidate,
    records.NearMiss,
    records.Claim,
    records.Evidence,
    records.Quality,
    records.Interval,
    records.Latency,
    records.OperatingPoint,
    records.Speedup,
    records.Memory,
    records.Energy,
    records.Saving,
    records.Cost,
    records.Price,
    records.Trial,
    records.Recipe,
    records.Step,
    records.Deployment,
    records.Signature,
    records.TensorSpec,
    records.DataSummary,
    records.Target,
    records.Machine,
    records.Manifest,
    records.BatchLatency,
    Verification,
    profiling.Profile,
    profiling.EngineProfile,
    profiling.Operator,
    profiling.MemorySample,
    profiling.Quantisation,
    profiling.Slowed,
    profiling.Advice,
    profiling.Peaks,
    benching.Bench,
    benching.ScenarioResult,
    benching.Checks,
    benching.Histogram,
    benching.Attempt,
    breakdown.Breakdown,
    breakdown.Ladder,
    breakdown.Rung,
    breakdown.Setting,
    breakdown.Training,
    breakdown.EngineRow,
    matrix.Matrix,
    matrix.Row,
    matrix.Cell,
)


def fields(record: type[Record]) -> list[str]:
    """Field names as they are written to JSON, in order."""
    return [field.alias or name for name, field in record.model_fields.items()]


def section(title: str) -> str:
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/json.md has no section '{title}'"
    return found[1]


def rows(title: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.parametrize("record", DOCUMENTED, ids=lambda record: record.__name__)
def test_the_page_lists_exactly_the_fields_of(record: type[Record]) -> None:
    documented = [row[0].strip("`") for row in rows(record.__name__)]
    assert documented == fields(record)


def test_the_page_lists_exactly_the_events_and_their_fields() -> None:
    documented = {
        row[0].strip("`"): re.findall(r"`([^`]+)`", row[1]) for row in rows("journal.jsonl")
    }
    found = {
        kind.model_fields["event"].default: [name for name in fields(kind) if name != "event"]
        for kind in get_args(Event)
    }
    assert documented == found


@pytest.mark.parametrize("record", DOCUMENTED, ids=lambda record: record.__name__)
def test_every_record_that_a_field_holds_has_a_section(record: type[Record]) -> None:
    titles = {known.__name__ for known in DOCUMENTED}
    for field in record.model_fields.values():
        for name in re.findall(r"strop\.records\.\w+\.(\w+)", str(field.annotation)):
            if isinstance(getattr(records, name, None), type):
                assert name in titles, f"{name} stands in {record.__name__} and has no section"
