"""Which engine for this model on this machine, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from strop import report
from strop.records import Result
from strop.report import breakdown, engines
from strop.report.numbers import Score

from . import made
from .reading import Page

REASON = "it is not installed: pip install 'strop[executorch]'"


def found(result: Result) -> dict[str, engines.EngineRow]:
    return {row.engine: row for row in engines.rows(result)}


def test_each_engine_has_its_best_measured_recipe_within_the_tolerance() -> None:
    rows = found(made.improved())
    assert list(rows) == ["openvino", "onnxruntime", "torch"]
    ov, ort, torch = rows.values()
    assert ov.status == "delivered" and ov.trial == 9
    assert ov.speed is not None and ov.speed.estimate == pytest.approx(2.91)
    assert ov.plain is not None and ov.plain.estimate == pytest.approx(1.52)
    # 2.05× and 2.02× were faster: the first loses too much, the second does not.
    assert ort.status == "measured" and ort.trial == 6
    assert ort.speed is not None and ort.speed.estimate == pytest.approx(2.02)
    assert ort.file == 11_600_000
    # All that ran on torch was dropped by --max-p99, in spite of its quality.
    assert torch.status == "unfit" and "over --max-p99" in torch.reason
    said = engines.why(made.improved(), tuple(rows.values()), Score.of(made.improved()))
    assert "On torch nothing kept within the limits: its best takes 9.31 ms" in said[-1]


def test_what_took_no_part_stands_at_the_end_with_the_way_out() -> None:
    result = made.improved(engines_left_out={"executorch": REASON, "torch": "never shown"})
    rows = engines.rows(result)
    assert rows[-1] == engines.EngineRow(engine="executorch", status="left-out", reason=REASON)
    assert [row.engine for row in rows].count("torch") == 1


def test_an_engine_on_which_all_failed_says_why() -> None:
    result = made.improved()
    kept = [trial for trial in result.trials if trial.number != 18]
    row = found(result.model_copy(update={"trials": tuple(kept)}))["torch"]
    assert row.status == "failed" and row.speed is None
    assert "no kernel for Resize-19" in row.reason


def test_why_says_by_how_much_and_when_it_cannot_tell() -> None:
    result = made.improved()
    said = engines.why(result, engines.rows(result), Score.of(result))
    assert said[0].startswith("The best recipe on openvino is 1.44× as fast as the best on onnxr")
    assert "with the outputs left as they are the ratio is 1.41×" in said[0]
    assert "overlap" not in said[0]
    wide = tuple(
        trial.model_copy(
            update={
                "evidence": trial.evidence.model_copy(
                    update={"speedups": (made.speedup("anchor", 2.9, 0.5),)}
                )
            }
        )
        if trial.number in (6, 9)
        else trial
        for trial in result.trials
    )
    changed = result.model_copy(update={"trials": wide})
    (first, *_) = engines.why(changed, engines.rows(changed), Score.of(changed))
    assert "could not tell them apart" in first


def test_what_looked_faster_elsewhere_and_was_not_delivered_is_told() -> None:
    base = made.improved()
    trials = tuple(
        trial.model_copy(update={"status": "chosen" if trial.number == 1 else "front"})
        if trial.number in (1, 9)
        else trial
        for trial in base.trials
    )
    result = base.model_copy(update={"trials": trials})
    rows = engines.rows(result)
    assert [row.status for row in rows[:2]] == ["measured", "delivered"]
    said = " ".join(engines.why(result, rows, Score.of(result)))
    assert "What was delivered runs on onnxruntime all the same" in said


def test_the_page_and_the_document_tell_the_same(tmp_path: Path) -> None:
    result = made.improved(
        engines_left_out={"executorch": REASON},
        techniques_left_out={"qat": "needs a PyTorch module"},
    )
    folder = made.folder(tmp_path / "out", result)
    path = report.write(folder)
    page = Page(path.read_text(encoding="utf-8"))
    assert page.faults == []
    assert REASON in page.text and "needs a PyTorch module" in page.text
    document = breakdown.read(folder, path)
    assert document.path == str(path)
    assert document.left_out == {"qat": "needs a PyTorch module"}
    assert [row.engine for row in document.engines][-1] == "executorch"
    assert breakdown.Breakdown.from_json(document.to_json()).to_json() == document.to_json()
    for sentence in document.why:
        assert sentence in page.text


def test_a_result_of_an_earlier_version_has_its_engines_all_the_same(tmp_path: Path) -> None:
    values = made.improved().to_dict()
    for name in ("engines_left_out", "techniques_left_out"):
        del values[name]
    rows = engines.rows(Result.from_dict(values))
    assert {row.engine for row in rows} == {"openvino", "onnxruntime", "torch"}
