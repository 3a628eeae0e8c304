"""A metric that is one number a set: proven by its resamples, within the time that is left."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from strop.bundle import recompute
from strop.data import read
from strop.metrics import reopen
from strop.models.user_code import load_function
from strop.records import Signature, TensorSpec
from strop.search import Request, jobs, optimize

from .digits import fitted, write_data, write_model
from .short import BUDGET, settle_speed, shorten

METRIC = """
import time

import numpy as np


def macro_f1(outputs, target):
    guess = outputs["logits"].argmax(axis=1)
    return float(np.mean([
        2 * np.sum((guess == k) & (target == k)) / max(np.sum(guess == k) + np.sum(target == k), 1)
        for k in range(10)
    ]))


def slow_f1(outputs, target):
    time.sleep(0.05)
    return macro_f1(outputs, target)


macro_f1.level = slow_f1.level = "set"
"""


@pytest.fixture
def metric(tmp_path: Path) -> Path:
    path = tmp_path / "f1.py"
    path.write_text(METRIC)
    return path


def test_a_search_over_a_set_level_metric_keeps_what_its_bound_rests_on(
    metric: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, patience=20)  # all of the space, which is small
    settle_speed(monkeypatch, 1.1)
    outcome = optimize(
        Request(
            model=write_model(tmp_path / "digits.onnx"),
            data=write_data(tmp_path / "digits.npz"),
            within="5%",
            metric=f"{metric}:macro_f1",
            trust=True,
            goal="size",
            output=tmp_path / "out",
            budget=BUDGET,
            engines=["onnxruntime"],
            techniques=["int8-dynamic"],
        )
    )
    journal = list(map(json.loads, (outcome.folder / "journal.jsonl").read_text().splitlines()))
    (finished, *_) = [event for event in journal if event["event"] == "proof-finished"]
    assert finished["claim"]["asymptotic"]
    assert finished["claim"]["upper"] < 0.05
    figures = {figure.name: figure for figure in recompute(outcome.bundle)}
    assert [str(it) for it in figures.values() if it.agrees is False] == []
    claim = outcome.result.claim
    assert claim is not None
    assert (outcome.result.status, claim.kind) == ("improved", "proven")
    assert figures["n"].computed == outcome.result.data.roles["prove"]
    assert figures["upper bound"].computed == finished["claim"]["upper"]


@pytest.mark.parametrize(("name", "seconds"), [("macro_f1", 1e6), ("slow_f1", 2.0)])
def test_the_bootstrap_keeps_to_its_time(
    metric: Path, tmp_path: Path, name: str, seconds: float
) -> None:
    """2,201 evaluations of the slow one would take two minutes."""
    weights, images, _ = fitted()
    logits = np.maximum(images @ weights[0] + weights[1], 0) @ weights[2] + weights[3]
    noise = np.random.default_rng(0).normal(0, 0.5, logits.shape).astype(np.float32)
    for folder, values in (("reference", logits), ("candidate", logits + noise)):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "0.npy", values)
    signature = Signature(
        inputs=(TensorSpec(name="pixels", dtype="float32", shape=("n", 64)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=("n", 10)),),
    )
    function = load_function(f"{metric}:{name}", trust=True)
    described = {
        "name": name,
        "function": function.spec,
        "sha256": function.sha256,
        "kind": "set",
    }
    assert reopen(described).kind == "set"
    found = jobs.bootstrap(
        dataset=read(write_data(tmp_path / "digits.npz"), signature).describe(),
        metric=described,
        reference=str(tmp_path / "reference"),
        candidate=str(tmp_path / "candidate"),
        names=["logits"],
        alpha=0.025,
        tolerance=0.05,
        seed=0,
        seconds=seconds,
    )
    if name == "slow_f1":
        assert "evaluations of the metric take about" in found["reason"]
    else:
        assert len(found["draws"]) == 2000
        assert len(found["left_out"]) == 200
        assert found["draws"].std() > 0
