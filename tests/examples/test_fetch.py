"""The house pattern: every model of the zoo has a module, and every file it copies has a model."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

pytest.importorskip("torch")


def test_every_model_has_a_module_that_fetches_it(files: Path) -> None:
    from fetch import ZOO

    for module in ZOO.values():
        tree = ast.parse((files.parent / f"{module}.py").read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert "fetch" in functions, module


def test_every_folder_of_files_belongs_to_a_model(files: Path) -> None:
    from fetch import ZOO

    folders = {path.name for path in files.iterdir() if path.is_dir()}
    assert {"power-demand", "movielens", "crepe"} <= folders <= set(ZOO)


def test_the_readme_has_a_row_for_every_model(files: Path) -> None:
    from fetch import ZOO

    text = (files.parent / "README.md").read_text(encoding="utf-8")
    assert [name for name in ZOO if f"\n| `{name}`" not in text] == []


def test_a_package_that_cannot_be_had_is_one_line_and_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import fetch
    import power_demand
    from packages import Unavailable

    def nothing(requirement: str, cache: Path) -> None:
        raise Unavailable(f"{requirement} cannot be had: no index")

    monkeypatch.setattr(power_demand, "wheel", nothing)
    assert fetch._fetch("power-demand", tmp_path / "power-demand", tmp_path) is False
    said = capsys.readouterr().err
    assert said == "power-demand: skipped, aeon==1.6.0 cannot be had: no index\n"
