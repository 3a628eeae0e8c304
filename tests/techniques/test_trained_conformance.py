"""The shipped conformance suite on the techniques that make a module smaller."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strop import data, techniques
from strop.data import Dataset
from strop.models.model import Model
from strop.records import Signature, TensorSpec
from strop.techniques import Context, prune
from strop.testing.graphs import Case
from strop.testing.targets import target
from strop.testing.techniques import TechniqueConformance

pytest.importorskip("torch_pruning")

WIDTH = 32


def wide() -> Case:
    """A sum of few ramps, in a network far wider than that takes."""
    rng = np.random.default_rng(5)
    ramps = rng.standard_normal((3, 4)).astype(np.float32)
    mix = rng.standard_normal((WIDTH, WIDTH // 4)).astype(np.float32)
    mix /= np.linalg.norm(mix, axis=1, keepdims=True) * WIDTH**0.5
    w0 = ramps[:, rng.integers(0, 4, WIDTH)]
    w1 = np.repeat(mix, 4, axis=1)
    w2 = np.abs(rng.standard_normal((WIDTH, 2))).astype(np.float32) / WIDTH**0.5

    def inputs(rows: int, seed: int) -> dict[str, np.ndarray]:
        return {"x": np.random.default_rng(seed).standard_normal((rows, 3)).astype(np.float32)}

    def answer(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        hidden = np.maximum(arrays["x"] @ w0, 0)
        hidden = np.maximum(hidden @ w1 + 1, 0)
        return {"y": hidden @ w2 + 1}

    x, y = (
        TensorSpec(name=name, dtype="float32", shape=("n", size))
        for name, size in (("x", 3), ("y", 2))
    )
    return Case(
        "wide",
        Signature(inputs=(x,), outputs=(y,)),
        answer,
        inputs,
        (
            ("MatMul", ["x", "w0"], ["m0"], {}),
            ("Relu", ["m0"], ["h0"], {}),
            ("MatMul", ["h0", "w1"], ["m1"], {}),
            ("Add", ["m1", "b1"], ["a1"], {}),
            ("Relu", ["a1"], ["h1"], {}),
            ("MatMul", ["h1", "w2"], ["m2"], {}),
            ("Add", ["m2", "b2"], ["y"], {}),
        ),
        {
            "w0": w0,
            "w1": w1.astype(np.float32),
            "b1": np.ones(WIDTH, np.float32),
            "w2": w2,
            "b2": np.ones(2, np.float32),
        },
    )


class Trained(TechniqueConformance):
    """What both need: a module form, examples enough to learn from, one setting of the grid."""

    case = wide()
    tolerance = 0.7
    settings = 1  # the others make other students, for which their own tests have networks

    def write(self, case: Case, folder: Path) -> Model:
        given = case.write(folder.with_name(f"{folder.name}-onnx"))
        folder.mkdir()
        rows = data.read(case.inputs(8, 1), given.signature)
        context = Context(folder, target(), {"calibrate": rows})
        return techniques.get("to-module").apply(given, {}, context)

    def write_unsuitable(self, folder: Path) -> Model:
        return dataclasses.replace(self.write(self.case, folder), meta={"quantised": True})

    def examples(self, model: Model) -> Mapping[str, Dataset]:
        return {
            role: data.read(self.case.inputs(512, number), model.signature)
            for number, role in enumerate(self._technique().roles, start=10)
        }


class TestDistil(Trained):
    technique = "distil"


class TestPrune(Trained):
    technique = "prune"

    @pytest.fixture(autouse=True)
    def _rewarded(self) -> Iterator[None]:
        """Engines that reward every fourth width, whatever this machine is doing."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prune, "rewarded_step", lambda target, folder: 4)
            patch.setattr(prune, "speedup", _twice)
            yield


def _twice(*given: Any) -> float:
    return 2.0


del Trained, TechniqueConformance  # bases, which pytest would collect
