"""A small network from file to page, and what cannot be profiled."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save
from typer.testing import CliRunner

from strop.cli.app import app
from strop.engines import OperatorTime, OperatorTimes
from strop.errors import InputError
from strop.profiling import Profile, profile, profiler
from strop.profiling.jobs import middle
from strop.profiling.page import render

from . import made


@pytest.fixture
def model(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    stored = {"first": random.standard_normal((6, 8)), "last": random.standard_normal((8, 4))}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "first"], ["h"], name="fc1"),
            helper.make_node("Relu", ["h"], ["r"], name="<act> & more"),
            helper.make_node("MatMul", ["r", "last"], ["y"], name="fc2"),
        ],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in stored.items()],
    )
    path = tmp_path / "net.onnx"
    opsets = [helper.make_opsetid("", 17)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "x.npz"
    np.savez(path, x=np.random.default_rng(1).standard_normal((40, 6)).astype(np.float32))
    return path


def test_a_profile_from_the_command_line(model: Path, data: Path, tmp_path: Path) -> None:
    page = tmp_path / "made" / "page.html"
    line = ["profile", str(model), "--data", str(data), "--engine", "onnxruntime", "--quick"]
    line += ["--batch", "4", "--threads", "1", "--runs", "9", "-o", str(page), "--json"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    found = Profile.from_dict(json.loads(done.stdout))
    (one,) = found.engines
    assert (found.batch, one.calls, found.peaks) == (4, 9, None)
    assert one.engine == "onnxruntime" and one.call_seconds > 0
    counted = {node: op for op in one.operators for node in op.nodes}
    assert counted["fc1"].flops == 2 * 4 * 6 * 8
    assert counted["fc2"].bytes_moved == 4 * (4 * 8 + 8 * 4 + 4 * 4)
    total = sum(op.seconds for op in one.operators) + one.outside_seconds
    assert total == pytest.approx(one.profiled_seconds)
    assert sum(op.share for op in one.operators) <= 1 + 1e-9
    assert {sample.phase for sample in one.memory} >= {"import", "run"}
    assert one.peak_memory >= max(sample.bytes for sample in one.memory) > 1_000_000
    seconds = [sample.seconds for sample in one.memory]
    assert seconds == sorted(seconds)
    text = page.read_text()
    assert "&lt;act&gt; &amp; more" in text and "<act>" not in text
    assert not re.search(r"(src|href)=|https?:|<script", text)


def test_the_original_stands_beside(model: Path, data: Path) -> None:
    found = profile(
        model,
        data,
        against=model,
        engines=["onnxruntime"],
        threads=1,
        runs=8,
        measure=False,
    )
    assert found.quantisation is not None
    before = found.quantisation.float_profile
    assert [op.name for op in before.operators] == [op.name for op in found.engines[0].operators]
    assert found.quantisation.added_seconds == 0
    assert "What quantisation slows" in " ".join(render(found).split())


def test_without_times_of_operators_nothing_is_said_of_quantisation(
    model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = made.profile(reason="it keeps none")
    monkeypatch.setattr(profiler, "_profile_one", lambda *_: silent)
    found = profile(model, data, against=model, engines=["onnxruntime"], measure=False)
    assert found.engines == (silent,)
    assert found.quantisation is None
    assert any("what quantisation slows" in note for note in found.notes)


def test_engines_that_cannot_are_told(model: Path, data: Path) -> None:
    found = profile(model, data, engines=["onnxruntime", "torch"], runs=5, measure=False)
    assert [one.engine for one in found.engines] == ["onnxruntime"]
    assert "module" in found.skipped["torch"]
    with pytest.raises(InputError, match="no engine can run the model"):
        profile(model, data, engines=["torch"], measure=False)
    with pytest.raises(InputError, match="nonesuch"):
        profile(model, data, engines=["nonesuch"], measure=False)


def test_counts_that_make_no_sense_are_refused(model: Path, data: Path) -> None:
    for wrong in ({"batch": 0}, {"threads": 0}, {"runs": 0}):
        with pytest.raises(InputError, match="at least 1"):
            profile(model, data, **wrong)


def test_one_session_with_unlucky_buffers_does_not_count() -> None:
    def session(fc: float, act: float) -> OperatorTimes:
        return OperatorTimes(
            (
                OperatorTime.over([fc], name="fc", operator="Gemm"),
                OperatorTime.over([act], name="act", operator="Relu"),
            ),
            1.0,
        )

    found = middle([session(2.0, 1.0), session(9.0, 1.0), session(2.0, 7.0)])
    assert [timed.seconds for timed in found.operators] == [2.0, 1.0]
