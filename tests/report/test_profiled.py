"""A profile in the report of the search whose bundle it is of."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from strop import profiling
from strop.cli import profile as command
from strop.cli.app import app
from strop.errors import InputError
from strop.measure import describe
from strop.profiling import (
    Advice,
    EngineProfile,
    Operator,
    Profile,
    Quantisation,
    keep,
    output_folder,
    write_report,
)
from strop.profiling.page import render

from . import made as results
from .reading import Page


def flame(*times: tuple[str, float], whole: float) -> EngineProfile:
    operators = tuple(
        Operator(
            name=name,
            operator="Conv",
            kernel="",
            precision="float32",
            nodes=(name,),
            seconds=seconds,
            low=seconds,
            high=seconds,
            share=seconds / whole,
            flops=None,
            bytes_moved=None,
            roofline=None,
            side=None,
        )
        for name, seconds in times
    )
    return EngineProfile(
        engine="onnxruntime",
        recipe="onnxruntime(all)",
        calls=100,
        call_seconds=whole,
        profiled_seconds=whole,
        operators=operators,
        outside_seconds=whole - sum(seconds for _, seconds in times),
        unmatched=0,
        quantised=False,
        memory=(),
        peak_memory=0,
    )


def whole(**more: object) -> Profile:
    one = flame(("conv <1>", 4e-4), ("gemm", 1e-4), whole=1e-3)
    advice = Advice(rule="dominant", engine="onnxruntime", share=0.4, text="'conv <1>' costs 40%")
    values: dict[str, object] = {
        "model": "out/bundle",
        "data": "d.npz",
        "batch": 1,
        "threads": 1,
        "runs": 100,
        "engines": (one,),
        "quantisation": None,
        "peaks": None,
        "advice": (advice,),
        "skipped": {},
        "notes": (),
        "machine": describe(),
    }
    return Profile.model_validate(values | more)


def test_the_report_shows_the_profile_that_lies_beside_it(tmp_path: Path) -> None:
    folder = results.folder(tmp_path / "out", results.improved())
    assert "Where a call goes" not in write_report(folder).read_text(encoding="utf-8")
    keep(whole(), folder)
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert page.faults == []
    assert len(page.all("svg", "icicle")) == 1
    assert "'conv <1>' costs 40%." in page.text
    assert "Delivered: onnxruntime(all), 1,000.0 µs under the profiler" in page.text


def test_original_and_delivered_share_a_scale(tmp_path: Path) -> None:
    folder = results.folder(tmp_path / "out", results.improved())
    slow = flame(("conv", 3e-3), whole=4e-3)
    before = Quantisation(float_profile=slow, slowed=(), added_seconds=0.0)
    keep(whole(quantisation=before), folder)
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert page.faults == []
    widths = [float(one["width"] or 0) for one in page.all("rect") if one.get("y") == "0"]
    original, delivered = [width for width in widths if width > 100]
    assert delivered == pytest.approx(original / 4, rel=0.01)
    assert "The original on the same engine" in page.text


def test_a_damaged_profile_is_told_and_hides_nothing_else(tmp_path: Path) -> None:
    folder = results.folder(tmp_path / "out", results.improved())
    (folder / "profile.json").write_text("{")
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert page.faults == []
    assert "profile.json cannot be read" in page.text
    assert "What was tried, and why it lost" in page.text


def test_an_output_folder_is_known_by_its_result(tmp_path: Path) -> None:
    folder = results.folder(tmp_path / "out", results.improved())
    found = output_folder(str(folder))
    assert found is not None and found.bundle == folder / "bundle"
    assert output_folder(tmp_path) is None
    assert output_folder({"x": 1}) is None
    (folder / "result.json").write_text(results.improved(bundle="gone").to_json())
    with pytest.raises(InputError, match="delivered no bundle"):
        output_folder(folder)


def test_profiling_an_output_folder_rewrites_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = results.folder(tmp_path / "out", results.improved())
    asked: list[str] = []

    def profile(model: str, data: str, **options: object) -> Profile:
        asked.append(model)
        return whole()

    monkeypatch.setattr(command, "profile", profile)
    done = CliRunner().invoke(app, ["profile", str(folder), "--data", "d.npz", "--json"])
    assert done.exit_code == 0, done.output
    assert asked == [str(folder / "bundle")]
    assert Profile.from_json(done.stdout) == whole()
    assert (folder / "profile.html").read_text(encoding="utf-8") == render(whole())
    assert "Where a call goes" in (folder / "report.html").read_text(encoding="utf-8")
    assert profiling.write_report(folder) == folder / "report.html"
