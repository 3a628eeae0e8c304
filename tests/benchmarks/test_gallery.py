"""docs/gallery.md says what benchmarks/zoo/results.json says."""

from __future__ import annotations

import doctest
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ZOO = Path(__file__).parents[2] / "benchmarks" / "zoo"
RESULTS: dict[str, Any] = json.loads((ZOO / "results.json").read_text(encoding="utf-8"))


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ZOO)
    return importlib.import_module("gallery")


def test_the_page_holds_the_recorded_figures(gallery: ModuleType) -> None:
    text = gallery.PAGE.read_text(encoding="utf-8")
    assert gallery.filled(text, RESULTS) == text


def test_every_model_has_its_place_on_the_page(gallery: ModuleType) -> None:
    text = gallery.PAGE.read_text(encoding="utf-8")
    assert [e.name for e in gallery.ENTRIES if f"<!-- gallery: {e.name} -->" not in text] == []
    assert text.count("<!-- gallery: ") == text.count("<!-- end -->") == len(gallery.ENTRIES) + 1


def test_figures_of_another_run_are_written_and_the_text_stays(gallery: ModuleType) -> None:
    entry = json.loads(json.dumps(RESULTS["entries"][0]))
    batches = list(entry["timing"]["rounds"])
    entry["timing"]["rounds"][batches[0]]["strop"]["seconds"] = 0.0123
    entry["timing"]["rounds"][batches[-1]]["strop"]["seconds"] = 0.002
    entry["quality"]["rows"]["strop"]["drop"] = 0.0125
    entry["footprint"] = {"strop": {"peak": 45_600_000, "file": 1_230_000}}
    name = entry["name"]
    page = (
        "Before.\n<!-- gallery: table -->\nold\n<!-- end -->\n"
        f"Between.\n<!-- gallery: {name} -->\n<!-- end -->\nAfter.\n"
    )
    text = gallery.filled(page, RESULTS | {"entries": [entry]})
    assert "old" not in text
    assert [line for line in text.splitlines() if line in ("Before.", "Between.", "After.")] == [
        "Before.",
        "Between.",
        "After.",
    ]
    (row,) = [line for line in text.splitlines() if "**after: strop**" in line]
    rate = f"{int(batches[-1]) / 0.002:,.0f}"
    assert [cell.strip() for cell in row.split("|")][4:9] == ["1.25", "12.3", rate, "45.6", "1.23"]
    assert gallery.filled(text, RESULTS | {"entries": [entry]}) == text


def test_a_model_without_figures_says_so_and_keeps_its_commands(gallery: ModuleType) -> None:
    page = "<!-- gallery: movielens -->\n<!-- end -->\n"
    text = gallery.filled(page, RESULTS | {"entries": []})
    assert "Not in the table yet" in text
    assert "--within 1% --batch 128 --metric zoo/movielens/metric.py:fn --trust" in text


def test_the_examples_of_its_docstrings_hold(gallery: ModuleType) -> None:
    found = doctest.testmod(gallery)
    assert found.attempted
    assert not found.failed
