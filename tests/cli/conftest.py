from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from strop import bundle as bundles
from strop.measure import describe
from strop.records import Deployment, Evidence, Recipe, Signature, TensorSpec

FEATURES, CLASSES, ROWS = 6, 4, 400


@pytest.fixture
def network(tmp_path: Path) -> Callable[..., Path]:
    """Writes a two-layer network whose last weights are `noise` away from seed 0's."""

    def network(
        name: str = "a.onnx",
        *,
        noise: float = 0.0,
        x: str = "x",
        y: str = "logits",
        batch: int | str = "n",
    ) -> Path:
        random = np.random.default_rng(0)
        first = random.standard_normal((FEATURES, 8)).astype(np.float32)
        last = random.standard_normal((8, CLASSES)).astype(np.float32)
        last += noise * np.random.default_rng(1).standard_normal(last.shape).astype(np.float32)
        graph = helper.make_graph(
            [
                helper.make_node("MatMul", [x, "first"], ["h"], name="fc1"),
                helper.make_node("Relu", ["h"], ["r"], name="act"),
                helper.make_node("MatMul", ["r", "last"], [y], name="fc2"),
            ],
            "network",
            [helper.make_tensor_value_info(x, TensorProto.FLOAT, [batch, FEATURES])],
            [helper.make_tensor_value_info(y, TensorProto.FLOAT, [batch, CLASSES])],
            [numpy_helper.from_array(first, "first"), numpy_helper.from_array(last, "last")],
        )
        opsets = [helper.make_opsetid("", 17)]
        path = tmp_path / name
        save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
        return path

    return network


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    random = np.random.default_rng(2)
    path = tmp_path / "examples.npz"
    np.savez(
        path,
        x=random.standard_normal((ROWS, FEATURES)).astype(np.float32),
        target=random.integers(0, CLASSES, ROWS),
    )
    return path


@pytest.fixture
def bundle(make_bundle: Callable[..., Path]) -> Path:
    """A bundle without a claim that ships the network whose last weights are 0.3 away."""
    return make_bundle()


@pytest.fixture
def make_bundle(tmp_path: Path, network: Callable[..., Path]) -> Callable[..., Path]:
    """Writes such a bundle; it may record a preprocessing."""

    def make_bundle(name: str = "bundle", preprocess: str | None = None) -> Path:
        return _write_bundle(tmp_path, name, network, preprocess)

    return make_bundle


def _write_bundle(
    tmp_path: Path, name: str, network: Callable[..., Path], preprocess: str | None
) -> Path:
    import onnxruntime

    folder = tmp_path / f"built-{name}"
    folder.mkdir()
    artifact = network("given.onnx", noise=0.3).rename(folder / "model.onnx")
    x = np.random.default_rng(4).standard_normal((4, FEATURES)).astype(np.float32)
    session = onnxruntime.InferenceSession(artifact, providers=["CPUExecutionProvider"])
    signature = Signature(
        inputs=(TensorSpec(name="x", dtype="float32", shape=("n", FEATURES)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=("n", CLASSES)),),
    )
    path = tmp_path / name
    bundles.write(
        path,
        bundles.Contents(
            name="network",
            artifact=artifact,
            form="onnx",
            signature=signature,
            recipe=Recipe(deploy=Deployment(engine="onnxruntime", threads=1)),
            claim=None,
            evidence=Evidence(),
            latency_curve=(),
            machine=describe(),
            original_digest="0" * 64,
            lineage={},
            result={},
            scores={},
            timings={},
            trials=[],
            sample_inputs={"x": x},
            sample_outputs={"logits": session.run(None, {"x": x})[0]},
            preprocess=preprocess,
        ),
    )
    return path
