"""The matrix: a pair gives parity, or says why not; nothing is hidden."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strop import engines
from strop.errors import InputError
from strop.measure import describe
from strop.records import Applicability
from strop.testing import graphs, matrix_jobs
from strop.testing import matrix as module
from strop.testing.matrix import BOUND, Cell, Matrix, Row, find, matrix
from strop.testing.targets import target
from strop.workers import ChildTimeout


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An ONNX file with its data beside it."""
    case = graphs.linear()
    written = case.write(tmp_path / "written")
    folder = tmp_path / "zoo" / "linear"
    folder.mkdir(parents=True)
    path = folder / "model.onnx"
    path.write_bytes((written.path / "onnx" / "model.onnx").read_bytes())
    np.savez(folder / "data.npz", **case.inputs(8, 3), target=np.zeros(8, np.int64))
    return path


def made(*cells: Cell, **more: Any) -> Matrix:
    return Matrix(
        engines=tuple(cell.engine for cell in cells),
        rows=(Row(model="m", reference="r", examples="e", cells=cells, **more),),
        bound=BOUND,
        examples=4,
        machine=describe(),
    )


def test_a_folder_runs_on_each_engine_and_a_damaged_file_says_so(model: Path) -> None:
    (model.parent.parent / "broken.onnx").write_bytes(b"no model")
    found = matrix([model.parent.parent], engines=["onnxruntime", "torch"], timeout=120)
    broken, linear = found.rows
    assert broken.model == "broken" and broken.reason and broken.cells == ()
    assert linear.model == "linear" and linear.examples == "data.npz"
    ort, eager = linear.cells
    assert ort.outcome == "parity" and ort.error is not None and ort.error <= 1e-5
    assert eager.outcome == "refused" and "PyTorch module" in eager.reason
    assert str(model.parent) not in found.to_json()
    assert not found.holds, "a model that cannot be read is no parity"


def test_answers_that_differ_are_seen(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pair"
    told = matrix_jobs.reference(str(model), str(folder), None, 4, trust=False)
    assert told == {
        "reference": "ONNX Runtime, basic rewrites",
        "examples": "random",
        "alike": False,
    }
    place = folder / "outputs.npz"
    with np.load(place) as kept:
        outputs = dict(kept)
    np.savez(place, **{name: 1.01 * value for name, value in outputs.items()})
    found = matrix_jobs.check(
        "onnxruntime", str(folder), target().to_dict(), bound=BOUND, trust=False
    )
    assert found["outcome"] == "differs"
    assert found["error"] == pytest.approx(0.01 / 1.01, rel=1e-3)
    assert "logits:0" in found["reason"]


def test_a_model_whose_answers_never_change_is_no_test(tmp_path: Path) -> None:
    import onnx

    path = graphs.linear().write(tmp_path / "written").path / "onnx" / "model.onnx"
    proto = onnx.load(path)
    for constant in proto.graph.initializer:
        zeros = np.zeros_like(onnx.numpy_helper.to_array(constant))
        constant.CopyFrom(onnx.numpy_helper.from_array(zeros, constant.name))
    onnx.save(proto, tmp_path / "zeros.onnx")
    found = matrix([tmp_path / "zeros.onnx"], engines=["onnxruntime"], timeout=120)
    (cell,) = found.rows[0].cells
    assert found.rows[0].alike and cell.outcome == "runs" and "nothing to compare" in cell.reason
    assert found.holds


def test_an_engine_that_dies_or_hangs_has_failed_and_the_rest_goes_on(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module._call

    def call(who: str, job: str, *rest: Any, **params: Any) -> Any:
        if job == "check" and who == "torch":
            raise ChildTimeout(f"it was too slow with {params['folder']}/artifact")
        return real(who, job, *rest, **params)

    monkeypatch.setattr(module, "_call", call)
    found = matrix([model], engines=["torch", "onnxruntime"], timeout=120)
    failed, fine = found.rows[0].cells
    assert failed.outcome == "failed" and failed.reason == "it was too slow with artifact"
    assert fine.outcome == "parity"
    assert not found.holds


def test_what_is_not_installed_is_absent_and_starts_no_child(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "run: pip install it"
    one = engines.get("torch")
    monkeypatch.setattr(type(one), "available", lambda self: Applicability.no(reason))
    found = matrix([model], engines=["torch"], timeout=120)
    assert found.rows[0].cells == (Cell(engine="torch", outcome="absent", reason=reason),)
    assert found.holds


def test_models_are_found_and_told_apart(model: Path, tmp_path: Path) -> None:
    zoo = model.parent.parent
    (zoo / "light.onnx").touch()
    (zoo / "notes.txt").touch()
    assert [title for title, _ in find([zoo])] == ["light", "linear"]
    assert find(["net.py:build"])[0][0].endswith("/net.py:build")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no model"):
        find([tmp_path / "empty"])
    with pytest.raises(InputError, match="there is no model"):
        find([tmp_path / "missing.onnx"])
    with pytest.raises(InputError, match="no model was given"):
        find([])


@pytest.mark.parametrize("options", [{"examples": 0}, {"timeout": 0}, {"timeout": math.nan}])
def test_counts_that_make_no_sense_are_refused(model: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="at least"):
        matrix([model], **options)
    with pytest.raises(InputError, match="wings"):
        matrix([model], engines=["wings"])


@pytest.mark.parametrize(
    ("outcome", "holds"),
    [
        ("parity", True),
        ("runs", True),
        ("refused", True),
        ("absent", True),
        ("differs", False),
        ("failed", False),
    ],
)
def test_a_reason_holds_and_a_fault_does_not(outcome: Any, holds: bool) -> None:
    assert made(Cell(engine="e", outcome=outcome)).holds is holds


def test_a_document_reads_back(model: Path) -> None:
    found = made(Cell(engine="e", outcome="differs", error=math.inf, reason="other shapes"))
    assert Matrix.from_json(found.to_json()) == found
