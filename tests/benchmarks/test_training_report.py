"""What benchmarks/training/report.py makes of results: every row, and who is ahead of whom."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TRAINING = Path(__file__).parents[2] / "benchmarks" / "training"
RESULTS: dict[str, Any] = json.loads((TRAINING / "results.json").read_text(encoding="utf-8"))


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    # By its path: `report` is a folder of tests, too.
    monkeypatch.syspath_prepend(TRAINING)
    spec = importlib.util.spec_from_file_location("training_report", TRAINING / "report.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def by_hand(times: float, quality: float) -> dict[str, Any]:
    """A recipe made by hand, so many times as fast as the joint result."""
    joint = RESULTS["joint"]
    ratios = {name: times * value for name, value in joint["ratios"].items()}
    given = {"delivered": "by hand: a student", "quality": quality, "ratios": ratios}
    return {**joint, **given, "claim": None, "timed_with": ["by-hand-narrow", "joint"]}


def test_recipes_made_by_hand_are_rows_of_the_table_and_rivals(report: ModuleType) -> None:
    joint = {**RESULTS["joint"], "timed_with": ["by-hand-narrow", "by-hand-pruned", "joint"]}
    pieces = {
        "joint": joint,
        "by-hand-narrow": by_hand(0.5, joint["quality"]),
        "by-hand-pruned": by_hand(0.8, joint["quality"]),
    }
    text = "\n".join(report.ablation(pieces))
    assert text.count("| by hand: a student |") == 2
    assert "is 1.25× the best recipe made by hand, `by-hand-pruned`, at batch 64 (timed in" in text


def test_a_recipe_that_loses_too_much_is_compared_with_nothing(report: ModuleType) -> None:
    lost = by_hand(3.0, RESULTS["joint"]["original_quality"] - 0.02)
    text = "\n".join(report.ablation({"joint": RESULTS["joint"], "by-hand-narrow": lost}))
    assert "best recipe made by hand" not in text and f"({lost['ratios']['eager 64']:.1f})" in text


def test_the_page_says_what_is_recorded(report: ModuleType, tmp_path: Path) -> None:
    for name in ("results.json", "coreset.json"):
        if (TRAINING / name).exists():
            (tmp_path / name).write_text((TRAINING / name).read_text())
    report.write(tmp_path)
    assert (tmp_path / "README.md").read_text() == (TRAINING / "README.md").read_text()
