from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from strop import report
from strop.cli.app import app
from strop.errors import InputError
from strop.records import (
    Candidate,
    DataSummary,
    Deployment,
    Evidence,
    Interval,
    Machine,
    Recipe,
    Result,
    Signature,
    Speedup,
    Target,
    TensorSpec,
    Trial,
)


def test_the_report_is_written_and_its_path_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "result.json").write_text("{}")
    asked: list[Path] = []

    def write(folder: Path, sections: object = ()) -> Path:
        asked.append(folder)
        return folder / "report.html"

    monkeypatch.setattr(report, "write", write)
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 0
    assert asked == [tmp_path]
    assert done.stdout == f"{tmp_path / 'report.html'}\n"


def test_a_folder_without_a_result_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert isinstance(done.exception, InputError)
    assert "result.json" in str(done.exception)


def test_steps_and_engines_are_printed_and_json_is_one_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    outcome = _finished(tmp_path / "out")
    done = CliRunner().invoke(app, ["report", str(outcome), "--steps", "--engines"])
    assert done.exit_code == 0, done.output
    assert "this step" in done.stdout and "its best recipe" in done.stdout
    assert "litert       not installed: pip install x" in done.stdout  # whole, on a line
    assert done.stdout.endswith(f"{outcome / 'report.html'}\n")
    done = CliRunner().invoke(app, ["report", str(outcome), "--json"])
    document = json.loads(done.stdout)
    assert document["schema"] == 1
    assert [rung["kind"] for rung in document["steps"]["rungs"]] == ["original", "engine"]
    assert {row["engine"]: row["status"] for row in document["engines"]} == {
        "onnxruntime": "measured",
        "openvino": "delivered",
        "litert": "left-out",
    }


def _finished(folder: Path) -> Path:
    """An output folder in which the model went to another engine as it was."""
    original, chosen = (
        Recipe(deploy=Deployment(engine=engine)) for engine in ("onnxruntime", "openvino")
    )
    machine = Machine(
        cpu="a processor",
        architecture="x86_64",
        platform="Linux",
        isa=(),
        cpus=(0,),
        physical_cores=1,
        memory_bytes=2**30,
        python="3.11",
        packages={},
    )
    spec = TensorSpec(name="x", dtype="float32", shape=("n", 4))
    ratio = Interval(estimate=1.5, low=1.4, high=1.6)

    def timed(value: Interval) -> Evidence:
        return Evidence(
            speedups=(Speedup(against="anchor", batch=1, ratio=value, launches=1),),
        )

    one = Interval(estimate=1.0, low=1.0, high=1.0)
    trials = (
        Trial(number=0, recipe=original, status="alive", stage="time", evidence=timed(one)),
        Trial(number=1, recipe=chosen, status="chosen", stage="time", evidence=timed(ratio)),
    )
    trials = tuple(trial.model_copy(update={"equivalent": True}) for trial in trials)
    before, after = (
        Candidate(recipe=recipe, text=str(recipe), evidence=Evidence())
        for recipe in (original, chosen)
    )
    result = Result(
        status="unimproved",
        reason="a made-up search",
        claim=None,
        model="m.onnx",
        signature=Signature(inputs=(spec,), outputs=(spec,)),
        data=DataSummary(source="d", content_digest="0", examples=1, roles={}, metric="closeness"),
        target=Target(machine=machine),
        machine=machine,
        tolerance=0.01,
        confidence=0.95,
        original=before,
        equivalent=after,
        delivered=after,
        trials=trials,
        engines_left_out={"litert": "not installed: pip install x"},
        budget_seconds=1.0,
    )
    folder.mkdir()
    (folder / "result.json").write_text(result.to_json())
    return folder
