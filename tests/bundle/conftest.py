from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from strop import engines
from strop.bundle import Contents
from strop.data import read
from strop.measure import describe
from strop.metrics import UserMetric, resampled_drop, resolve
from strop.models.model import Model
from strop.models.user_code import load_function
from strop.proof import launch_log_ratio, ledger_alpha, prove, ratio_interval
from strop.records import (
    BatchLatency,
    Claim,
    Deployment,
    Evidence,
    Interval,
    Quality,
    Recipe,
    Signature,
    Speedup,
    Step,
    TensorSpec,
)

MACRO_F1 = """
import numpy as np


def macro_f1(outputs, target):
    guess = outputs["y"].argmax(axis=1)
    scores = []
    for label in range(3):
        hit = np.sum((guess == label) & (target == label))
        scores.append(2 * hit / max(np.sum(guess == label) + np.sum(target == label), 1))
    return float(np.mean(scores))


macro_f1.level = "set"
"""
FORMS = {"onnxruntime": "onnx", "openvino": "openvino"}
EXAMPLES = 500
SIGNATURE = Signature(
    inputs=(TensorSpec(name="x.1", dtype="float32", shape=("n", 4)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("n", 3)),),
)


@pytest.fixture(scope="session")
def weights() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


@pytest.fixture
def original(tmp_path: Path, weights: np.ndarray) -> Path:
    """The model as it was given; it says where it was exported."""
    return save_onnx(weights, tmp_path / "given" / "original.onnx")


@pytest.fixture
def data(tmp_path: Path, weights: np.ndarray) -> Path:
    """Examples whose targets are mostly what the original decides."""
    random = np.random.default_rng(1)
    x = random.normal(size=(EXAMPLES, 4)).astype(np.float32)
    target = (x @ weights).argmax(axis=1)
    target[::10] = 0
    path = tmp_path / "data.npz"
    np.savez(path, **{"x.1": x, "target": target})
    return path


@pytest.fixture
def make(tmp_path: Path, weights: np.ndarray, data: Path) -> Callable[..., Contents]:
    """Contents of a bundle whose model is the original (equivalent) or a coarser one (proven)."""

    def make(engine: str = "onnxruntime", *, proven: bool = False) -> Contents:
        delivered = np.round(weights, 2) if proven else weights
        built = build(delivered, engine, tmp_path / f"built-{engine}-{proven}")
        return describe_contents(built, engine, weights, delivered, data, proven=proven)

    return make


@pytest.fixture
def make_set_level(
    make: Callable[..., Contents], tmp_path: Path, weights: np.ndarray, data: Path
) -> Callable[[], Contents]:
    """Contents whose claim is about macro F1, resampled."""

    def make_set_level() -> Contents:
        source = tmp_path / "f1.py"
        source.write_text(MACRO_F1)
        function = load_function(f"{source}:macro_f1", trust=True)
        metric = UserMetric(function, "set")
        contents = make(proven=True)
        proof_set = read(data, SIGNATURE).subset(np.arange(50, EXAMPLES))
        x, targets = proof_set.inputs()["x.1"], proof_set.targets()
        before, after = {"y": x @ weights}, {"y": x @ np.round(weights, 2)}
        groups = np.asarray(proof_set.groups)
        alpha = ledger_alpha(0.05, 1)
        drawn = resampled_drop(
            metric, before, after, targets, groups=groups, alpha=alpha, tolerance=0.05, seed=0
        )
        assert contents.claim is not None and contents.evidence.prove_quality is not None
        quality = contents.evidence.prove_quality.model_copy(
            update={
                "kind": "set",
                "metric": metric.name,
                "reference": metric.value(before, targets, before),
                "candidate": metric.value(after, targets, before),
                "drop": Interval(estimate=drawn.estimate, low=np.nan, high=np.nan),
                "lost": 0,
                "won": 0,
            }
        )
        claim = contents.claim.model_copy(
            update={
                "metric": metric.name,
                "method": "paired BCa bootstrap",
                "upper": drawn.upper(alpha),
                "p": None,
                "asymptotic": True,
            }
        )
        scores = {
            **contents.scores,
            "prove/reference": np.zeros(0),
            "prove/delivered": np.zeros(0),
            "prove/estimate": np.array([drawn.estimate]),
            "prove/draws": drawn.draws,
            "prove/left_out": drawn.left_out,
        }
        return altered(
            contents,
            claim=claim,
            scores=scores,
            evidence=contents.evidence.model_copy(update={"prove_quality": quality}),
            lineage={**contents.lineage, "metric": metric.describe(), "seed": 0},
        )

    return make_set_level


def save_onnx(weights: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    trace = f'Traceback (most recent call last)\n  File "{path}", line 1'
    node = helper.make_node("MatMul", ["x.1", "w"], ["y"], name="/l/MatMul", doc_string=trace)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x.1", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    proto.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=trace)
    onnx.save(proto, path)
    return path


def build(weights: np.ndarray, engine: str, folder: Path) -> Path:
    save_onnx(weights, folder / "model" / "onnx" / "model.onnx")
    model = Model.seal(folder / "model", SIGNATURE)
    (folder / "artifact").mkdir()
    return engines.get(engine).build(model, {}, folder / "artifact")


def describe_contents(
    artifact: Path,
    engine: str,
    weights: np.ndarray,
    delivered: np.ndarray,
    data: Path,
    *,
    proven: bool,
) -> Contents:
    dataset = read(data, SIGNATURE)
    proof_set = dataset.subset(np.arange(50, EXAMPLES))
    x, targets = proof_set.inputs()["x.1"], proof_set.targets()
    reference, candidate = {"y": x @ weights}, {"y": x @ delivered}
    metric = resolve("accuracy", outputs=reference, has_target=True, targets=targets)
    before = metric.scores(reference, targets, reference)
    after = metric.scores(candidate, targets, reference)
    changed = reference["y"].argmax(1) != candidate["y"].argmax(1)
    errors = np.linalg.norm(candidate["y"] - reference["y"], axis=1)
    errors = errors / np.linalg.norm(reference["y"], axis=1)
    isa = describe().isa
    if proven:
        test = prove(before - after, 0.05, ledger_alpha(0.05, 1), kind="binary")
        assert test.proven
        claim = Claim(
            kind="proven",
            metric="accuracy",
            tolerance=0.05,
            confidence=0.95,
            method=test.method,
            upper=test.upper,
            p=test.p,
            n=len(x),
            groups=len(x),
            run=1,
            proof_set=proof_set.digest,
            isa=isa,
        )
    else:
        claim = Claim(
            kind="equivalent",
            metric="accuracy",
            method="outputs compared",
            n=len(x),
            groups=len(x),
            isa=isa,
        )
    random = np.random.default_rng(2)
    quads = [
        (np.array([2.0, 1.0, 1.0, 2.0]) * random.uniform(0.9, 1.1, (4, 4))).tolist()
        for _ in range(5)
    ]
    ratio = ratio_interval([launch_log_ratio(launch) for launch in quads])
    interval = Interval(estimate=ratio.estimate, low=ratio.low, high=ratio.high)
    quality = Quality(
        metric="accuracy",
        kind="binary",
        role="prove",
        n=len(x),
        groups=len(x),
        reference=before.mean(),
        candidate=after.mean(),
        drop=Interval(estimate=(before - after).mean(), low=-1, high=1),
        lost=int(np.sum(before > after)),
        won=int(np.sum(before < after)),
        changed=int(changed.sum()),
        max_relative_error=errors.max(),
    )
    native = Recipe(deploy=Deployment(engine="onnxruntime", threads=1))
    steps = (Step(technique="rounding", params={"nodes": ["/l/MatMul"]}),) if proven else ()
    here = str(artifact)
    return Contents(
        name="tiny",
        artifact=artifact,
        form=FORMS[engine],
        signature=SIGNATURE,
        recipe=Recipe(steps=steps, deploy=Deployment(engine=engine, threads=1)),
        claim=claim,
        evidence=Evidence(
            prove_quality=quality,
            speedups=(Speedup(against="original", batch=1, ratio=interval, launches=5),),
        ),
        latency_curve=(BatchLatency(batch=1, p50_seconds=1.0, p99_seconds=1.1),),
        machine=describe(),
        original_digest="0" * 64,
        lineage={
            "model": here,
            "data": data.name,
            "metric": metric.describe(),
            "roles": {"prove": "…"},
        },
        result={"original": {"recipe": native.to_dict()}, "warnings": [f"{here} is odd"]},
        scores={
            "prove/reference": before,
            "prove/delivered": after,
            "prove/errors": errors,
            "prove/changed": changed,
            "prove/rows": proof_set.rows,
            "prove/groups": proof_set.groups,
            "prove/keys": proof_set.keys,
        },
        timings={
            "original/delivered": {
                "batch": 1,
                "quads": quads,
                "a_seconds": [[2.0]] * 5,
                "b_seconds": [[1.0]] * 5,
            }
        },
        trials=[
            {"number": 0, "reason": ""},
            {
                "number": 1,
                "reason": "Traceback (most recent call last):\n"
                f'  File "{here}", line 1, in f\nValueError: no {here}',
            },
        ],
        sample_inputs={"x.1": x[:8]},
        sample_outputs={"y": reference["y"][:8]},
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def altered(contents: Contents, **changes: Any) -> Contents:
    return dataclasses.replace(contents, **changes)
