from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from strop import engines
from strop.cli import conformance as command
from strop.cli.app import app
from strop.measure import describe
from strop.testing.matrix import Cell, Matrix, Row


def cells(outcome: Any = "parity") -> tuple[Cell, ...]:
    return (
        Cell(engine="onnxruntime", outcome="parity", error=0.0),
        Cell(engine="openvino", outcome=outcome, error=2.1e-6, reason="" if outcome else "?"),
        Cell(engine="torch", outcome="refused", reason="needs a <PyTorch> module"),
    )


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Matrix:
    rows = tuple(
        Row(model=name, reference="ONNX Runtime", examples="data.npz", cells=cells())
        for name in ("a_b", "c")
    )
    made = Matrix(
        engines=("onnxruntime", "openvino", "torch"),
        rows=(*rows, Row(model="broken", reason="it is no ONNX file")),
        bound=1e-3,
        examples=4,
        machine=describe(),
    )
    monkeypatch.setattr(command, "matrix", lambda models, **options: made)
    monkeypatch.setenv("COLUMNS", "160")
    return made


def test_the_table_and_the_reasons_are_printed(found: Matrix) -> None:
    done = CliRunner().invoke(app, ["conformance", "zoo"])
    assert done.exit_code == 1, "a model could not be read"
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["model", "onnxruntime", "openvino", "torch"] in lines
    assert ["c", "parity,", "exact", "parity", "2e-06", "refused"] in lines
    assert "torch, refused (all models): needs a <PyTorch> module" in done.stdout
    assert "broken cannot be read: it is no ONNX file" in done.stdout


def test_all_well_is_exit_0_and_says_so(found: Matrix, monkeypatch: pytest.MonkeyPatch) -> None:
    good = found.model_copy(update={"rows": found.rows[:2]})
    monkeypatch.setattr(command, "matrix", lambda models, **options: good)
    done = CliRunner().invoke(app, ["conformance", "zoo", "--engine", "torch"])
    assert done.exit_code == 0
    assert "every pair gives the model’s own answers" in done.stdout


def test_json_is_one_document(found: Matrix) -> None:
    done = CliRunner().invoke(app, ["conformance", "zoo", "--json"])
    assert json.loads(done.stdout)["engines"] == ["onnxruntime", "openvino", "torch"]
    assert Matrix.from_json(done.stdout) == found


def test_markdown_is_a_page_whose_tables_are_whole(found: Matrix) -> None:
    done = CliRunner().invoke(app, ["conformance", "zoo", "--markdown"])
    lines = done.stdout.splitlines()
    assert lines[0].startswith("# ")
    start = lines.index("| model | `onnxruntime` | `openvino` | `torch` |")
    table = lines[start : start + 5]
    assert all(line.count("|") == 5 for line in table)
    assert table[2] == "| a\\_b | parity, exact | parity 2e-06 | refused |"
    assert table[4] == "| broken | – | – | – |"
    others = [name for name in engines.names() if name not in found.engines]
    assert bool(others) == any(line.startswith("Registered, and not asked for") for line in lines)
    assert "- torch, refused (all models): needs a \\<PyTorch> module" in lines
