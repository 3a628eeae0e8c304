from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from strop import report
from strop.cli.app import app
from strop.errors import InputError


def test_the_report_is_written_and_its_path_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "result.json").write_text("{}")
    asked: list[Path] = []

    def write(folder: Path) -> Path:
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
