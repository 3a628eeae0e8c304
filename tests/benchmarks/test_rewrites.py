"""benchmarks/rewrites compares what it says: one pass left out, shapes fixed, the same function."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

REWRITES = Path(__file__).parents[2] / "benchmarks" / "rewrites"


@pytest.fixture
def variants(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REWRITES)
    return importlib.import_module("variants")


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REWRITES)
    return importlib.import_module("page")


def _model(path: Path) -> Path:
    """A convolution with a scale behind it, and a slice of everything."""
    constants = {
        "w": np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32),
        "s": np.array([1.5], np.float32),
        "start": np.array([0], np.int64),
        "end": np.array([10**12], np.int64),
        "axis": np.array([2], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv"),
        helper.make_node("Mul", ["a", "s"], ["b"], name="scale"),
        helper.make_node("Slice", ["b", "start", "end", "axis"], ["c"], name="slice"),
        helper.make_node("Relu", ["c"], ["y"], name="relu"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", 3, "h", 8])],
        [helper.make_tensor_value_info("y", 1, ["n", 4, None, 6])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def test_each_change_is_one_rewrite_of_the_same_function(
    variants: ModuleType, tmp_path: Path
) -> None:
    inputs = {"x": np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    family = variants.make(_model(tmp_path / "model.onnx"), tmp_path / "work", inputs)
    changes = {change.name: change for change in family.changes}
    assert list(changes) == ["cleanup", "slices", "affine", "shapes fixed"]
    assert changes["cleanup"].operators == (4, 2)
    assert changes["affine"].operators == changes["slices"].operators == (3, 2)
    assert all(change.relative_error < 1e-5 for change in changes.values())
    assert {*family.without_effect}.isdisjoint(changes)
    before, after = changes["shapes fixed"].sides("onnxruntime")
    assert before[0].signature == after[0].signature and before[0].digest != after[0].digest
    (one, plain), (other, static) = changes["shapes fixed"].sides("openvino")
    assert one is other and (plain, static) == ({}, {"shapes": "static"})


def test_the_page_calls_the_same_what_is_the_same(page: ModuleType) -> None:
    def row(change: str, **gain: Any) -> dict[str, Any]:
        return {
            "change": change,
            "operators": [4, 2],
            "relative_error": 1e-7,
            "gains": {"onnxruntime": gain},
        }

    text = page.readme(
        {
            "date": "2026-01-01",
            "machine": {"cpu": "a processor"},
            "versions": {"onnx": "1"},
            "settings": {"threads": 2, "batch": 1, "launches": 6},
            "models": [
                {
                    "name": "net",
                    "operators": {"original": 4, "cleaned": 2},
                    "without_effect": ["tables"],
                    "load_before": 0.1,
                    "rows": [
                        row("cleanup", ratio=1.2, low=1.1, high=1.3),
                        row("slices", ratio=1.0, low=0.99, high=1.01),
                        row("affine", ratio=0.9, low=0.8, high=1.05),
                        row("onnxruntime", error="it | broke"),
                    ],
                }
            ],
        }
    )
    assert "| cleanup | 4 → 2 | **1.20 [1.10, 1.30]** | 1e-07 |" in text
    assert "1.00 [0.99, 1.01], the same" in text
    assert "| 0.90 [0.80, 1.05] |" in text
    assert "| ONNX Runtime's basic level, offline | 4 → 2 | it \\| broke |" in text
    assert "Without effect here: tables." in text
