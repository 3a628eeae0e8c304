from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import onnx
import pytest
from onnx import TensorProto, helper

from strop.errors import StropError
from strop.measure import describe
from strop.models import load
from strop.records import Evidence, Step, Target
from strop.search import builder
from strop.search.builder import operator_counts
from strop.techniques import Context, get


def test_the_clean_up_tells_the_evidence_what_it_removed(tmp_path: Path) -> None:
    """Two Identity nodes go; a model that was not cleaned up has no counts."""
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Identity", ["b"], ["c"]),
        helper.make_node("Neg", ["c"], ["y"]),
    ]
    sides = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")
    ]
    proto = helper.make_model(
        helper.make_graph(nodes, "g", sides[:1], sides[1:]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(proto, tmp_path / "model.onnx")
    given = load(tmp_path / "model.onnx", workdir=tmp_path / "given")
    (tmp_path / "clean").mkdir()
    context = Context(workdir=tmp_path / "clean", target=Target(machine=describe()))
    cleaned = get("cleanup").apply(given, {}, context)
    assert operator_counts(given) == {}
    evidence = Evidence(**operator_counts(cleaned))
    assert (evidence.operators_before, evidence.operators_after) == (4, 2)


def test_no_technique_may_see_the_proof_set(monkeypatch: pytest.MonkeyPatch) -> None:
    greedy = SimpleNamespace(name="greedy", roles=("train", "prove"))
    monkeypatch.setattr(builder.techniques, "get", lambda name: greedy)
    with pytest.raises(StropError, match="greedy asks for the proof set"):
        builder._apply(
            workspace=cast(Any, None),
            model=cast(Any, None),
            payload=None,
            step=Step(technique="greedy"),
            seed=0,
            timeout=None,
        )
