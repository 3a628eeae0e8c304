"""What a search says of what it was given, before it begins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from strop.errors import InputError
from strop.metrics.accuracy import Accuracy
from strop.records import Signature, TensorSpec
from strop.search import Request, intake
from strop.search.task import Tolerance
from strop.search.workspace import reason_of
from strop.workers import ChildTimeout

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=("n", 2)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("n", 3)),),
)


def test_repeats_are_told_once(tmp_path: Any) -> None:
    x = np.random.default_rng(0).random((60, 2), dtype=np.float32)
    data = {"x": np.concatenate([x, x[:5]]), "target": np.arange(65) % 3}
    request = Request(model="m.onnx", data=data, within="1%", output=tmp_path / "out")
    roles, _, warnings = intake.read_roles(request, SIGNATURE, tmp_path)
    assert [line for line in warnings if "repeat" in line] == [
        "data: 5 of 65 rows repeat others: each counts once; give an array 'group' if they are "
        "independent examples"
    ]
    assert sum(len(dataset) for dataset in roles.values()) == 60


@pytest.mark.parametrize(
    ("given", "tolerance", "told"),
    [
        (
            (-5.0, 0.0),
            Tolerance(value=0.01),
            "--within 0.01 allows a loss of 0.05 in its own units",
        ),
        ((0.0, 100.0), Tolerance(value=0.01, relative=True), "relative to the rescaled score"),
        ((0.0, 1.0), Tolerance(value=0.01), ""),
        (None, Tolerance(value=0.01), ""),
    ],
)
def test_a_tolerance_is_told_in_the_units_of_the_metric(
    given: Any, tolerance: Tolerance, told: str
) -> None:
    metric: Any = SimpleNamespace(name="score.py:mae", range=given)
    found = intake._rescaled(metric, tolerance)
    assert found.endswith(told) and bool(found) == bool(told)


def test_a_build_that_took_too_long_is_told_in_words() -> None:
    error = ChildTimeout("the child 'build' did not finish strop.search.jobs:build", seconds=20.0)
    assert reason_of(error) == "took longer than the 20 s that it was given"


@pytest.mark.parametrize(("load", "told"), [(0.4, False), (2.9, False), (7.0, True)])
def test_a_busy_machine_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, load: float, told: bool
) -> None:
    monkeypatch.setattr(intake.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(intake.os, "getloadavg", lambda: (load, 9.0, 9.0))
    found = intake.busy_notes()
    assert bool(found) == told
    assert not told or "the load is 7.0 on 2 CPUs" in found[0]


def test_too_few_examples_are_told_with_how_many_it_takes() -> None:
    note, enough = intake.power_note(222, 0.01, 0.05, "binary")
    assert not enough and "222 unseen examples are too few" in note
    assert "some 369 at the least" in note
    assert not intake.power_note(300, 0.01, 0.05, "agreement")[1]
    assert intake.power_note(400, 0.01, 0.05, "agreement")[1]


def test_examples_in_the_place_of_the_model_are_told(tmp_path: Any) -> None:
    request = Request(model="examples.npz", data={}, within="1%", output=tmp_path / "out")
    with pytest.raises(InputError, match="holds examples, not a model; name the model first"):
        intake.import_model(request, None, tmp_path)  # type: ignore[arg-type]  # not reached


def test_labels_of_no_class_are_refused_before_anything_is_trained() -> None:
    metric, outputs = Accuracy("y"), {"y": np.zeros((4, 3), np.float32)}
    intake._check_training_labels(metric, outputs, np.array([0, 2, -100]))
    intake._check_training_labels(metric, outputs, None)
    intake._check_training_labels(metric, outputs, np.array([0.5, 7.0]))
    for wrong in (3, -1):
        with pytest.raises(InputError, match=f"train: a target is class {wrong}.*-100 says"):
            intake._check_training_labels(metric, outputs, np.array([0, wrong]))


def test_what_is_odd_about_a_module_is_told() -> None:
    def notes(**meta: Any) -> list[str]:
        model: Any = SimpleNamespace(meta=meta)
        return intake.import_notes(model)

    assert notes(was_training=False) == []
    assert [line.partition(":")[0] for line in notes(was_training=True)] == [
        "the module was in training mode"
    ]
    (told,) = notes(was_training=False, export_error="no way (net.py:7)")
    assert "no way (net.py:7); what is left are the engines that run PyTorch" in told
