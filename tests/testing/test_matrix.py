"""The matrix: a pair gives parity, or says why not; nothing is hidden."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
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
    found = matrix([model.parent.parent], engines=["onnxruntime", "torch"], timeout=250)
    broken, linear = found.rows
    assert broken.model == "broken" and broken.reason and broken.cells == ()
    assert linear.model == "linear" and linear.examples == "data.npz"
    ort, eager = linear.cells
    assert ort.outcome == "parity" and ort.error is not None and ort.error <= 1e-5
    assert eager.outcome == "refused" and "PyTorch module" in eager.reason
    assert str(model.parent) not in found.to_json()
    assert not found.holds, "a model that cannot be read is no parity"


def test_a_folder_that_is_a_model_counts_as_that_alone(tmp_path: Path) -> None:
    for name, file in (("tiny.v2", "config.json"), ("saved", "saved_model.pb")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
        (tmp_path / name / "more.onnx").write_bytes(b"")
    given = [tmp_path / "tiny.v2", tmp_path / "saved"]
    assert find(given) == [("tiny.v2", str(given[0])), ("saved", str(given[1]))]


def test_a_name_with_a_colon_is_an_input_like_any_other(tmp_path: Path) -> None:
    text = 'g (float[N, 2] "x:0") => (float[N, 2] y) { y = Relu("x:0") }'
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    (tmp_path / "relu.onnx").write_bytes(proto.SerializeToString())
    data, folder = tmp_path / "data.npz", tmp_path / "pair"
    np.savez(data, **{"x:0": np.ones((5, 2), np.float32), "slice:old": np.ones(5)})
    told = matrix_jobs.reference(
        str(tmp_path / "relu.onnx"), str(folder), str(data), 4, trust=False
    )
    assert told["examples"] == "data.npz"


def test_text_travels_between_the_processes(tmp_path: Path) -> None:
    path = tmp_path / "echo.onnx"
    # NumPy has a parameter called `file`.
    text = "g (string[N] file) => (string[N] y) { y = Identity(file) }"
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    path.write_bytes(proto.SerializeToString())
    folder = tmp_path / "pair"
    told = matrix_jobs.reference(str(path), str(folder), None, 4, trust=False)
    assert told["reference"] == "ONNX Runtime, basic rewrites"
    found = matrix_jobs.check("onnxruntime", str(folder), target().to_dict(), BOUND, trust=False)
    assert (found["outcome"], found["error"]) == ("parity", 0.0), found["reason"]


def test_a_model_that_openvino_alone_has_read_is_run_by_it(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from strop.models import load
    from strop.models.convert import to_openvino

    read = load(model, workdir=tmp_path / "read")
    sealed = to_openvino(read, tmp_path / "ir")
    assert set(sealed.forms) == {"openvino"}
    told = matrix_jobs.reference(str(sealed.path), str(tmp_path / "pair"), None, 4, trust=False)
    assert told["reference"] == "OpenVINO, as it was read", told
    place = str(tmp_path / "pair")
    found = matrix_jobs.check("openvino", place, target().to_dict(), BOUND, trust=False)
    assert found["outcome"] == "parity", found["reason"]


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
    found = matrix([tmp_path / "zeros.onnx"], engines=["onnxruntime"], timeout=250)
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
    found = matrix([model], engines=["torch", "onnxruntime"], timeout=250)
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
    found = matrix([model], engines=["torch"], timeout=250)
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
