"""An engine without times of operators gives its reason, and the time of a call all the same."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from strop import engines
from strop.cli import profile as command
from strop.engines import OperatorTimes
from strop.engines.onnxruntime import OnnxRuntime
from strop.errors import NotApplicable
from strop.measure import describe
from strop.profiling import Profile, jobs
from strop.profiling.advice import advise
from strop.profiling.opening import open_model
from strop.profiling.page import render
from strop.records import Placement, SessionSpec
from strop.testing import graphs
from strop.testing.targets import target

from .made import operator, profile

REASON = "the <runtime> keeps none"


def test_the_calls_are_timed_and_the_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: Any) -> OperatorTimes:
        raise NotApplicable(REASON)

    monkeypatch.setattr(OnnxRuntime, "profile", silent)
    case = graphs.linear()
    model = case.write(tmp_path / "model")
    spec = SessionSpec(
        engine="onnxruntime",
        artifact=str(model.forms["onnx"]),
        signature=case.signature,
        placement=Placement(),
    )
    told = jobs.run(
        spec.to_dict(), None, dict(case.inputs(2, 0)), 7, None, False, emit=lambda event: None
    )
    assert len(told["seconds"]) == 7 and np.min(told["seconds"]) > 0
    assert (told["operators"], told["reason"]) == ([], REASON)


def test_it_is_shown_wherever_operators_are() -> None:
    silent = profile(engine="litert", recipe="litert", outside_seconds=0.0, reason=REASON)
    text = io.StringIO()
    command._print_engine(Console(file=text, width=120, highlight=False), silent, 1)
    assert "1 ms a call of 1, 4 MB resident at most" in text.getvalue()
    assert f"no times of operators: {REASON}" in text.getvalue()
    page = render(
        Profile(
            model="m.tflite",
            data="d.npz",
            batch=1,
            threads=1,
            runs=5,
            engines=(silent,),
            quantisation=None,
            peaks=None,
            advice=(),
            skipped={},
            notes=(),
            machine=describe(),
        )
    )
    assert "There are no times of operators: the &lt;runtime&gt; keeps none." in page
    assert 'class="operators"' not in page


def test_rules_about_operators_pass_it_over_and_the_choice_of_engine_does_not() -> None:
    silent = profile(engine="litert", call_seconds=1e-4, reason=REASON)
    spoken = profile(operator("conv", 9e-4))
    assert {one.rule for one in advise([silent], None)} == set()
    found = advise([silent, spoken], None)
    assert {one.engine for one in found if one.rule != "engine_choice"} == {"onnxruntime"}
    assert next(one for one in found if one.rule == "engine_choice").engine == "litert"


def test_engines_build_what_names_its_operators_and_load_it_as_ever(tmp_path: Path) -> None:
    if shutil.which("g++") is None or not engines.get("inductor").available():
        pytest.skip("needs PyTorch and a C++ compiler")
    built: dict[str, Any] = {}

    class Builder:
        """In place of the processes that build."""

        def child(self, name: str) -> Builder:
            return self

        def call(self, job: str, **arguments: Any) -> str:
            built.update(arguments)
            return "model.so"

    model = graphs.linear().write(tmp_path / "model")
    pool: Any = Builder()
    (subject,), _ = open_model(model, None, target(), ["inductor"], pool, tmp_path / "built")
    assert built["options"] == {"freezing": True, "kernels": True}
    assert subject.spec.options == {"freezing": True}


def test_litert_says_that_its_package_has_no_profiler(tmp_path: Path) -> None:
    case = graphs.linear()
    with pytest.raises(NotApplicable, match="no profiler of operators"):
        engines.get("litert").profile(
            tmp_path / "model.tflite", case.signature, {}, Placement(), case.inputs(1, 0), 1
        )
