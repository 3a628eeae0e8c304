"""Graphs of a few nodes, sealed as models, and what a technique needs to be applied to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from strop.data import Dataset, read
from strop.models import Model, graph
from strop.models.runner import Runner
from strop.records import Machine, Target
from strop.techniques import Context, Technique

node = helper.make_node


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def seal(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, np.ndarray | float],
    *,
    inputs: Mapping[str, tuple[Any, ...]],
    outputs: Mapping[str, tuple[Any, ...] | None],
    opset: int = 17,
) -> Model:
    """The graph as a model in `folder`; all inputs and outputs are float32."""
    values = {
        name: np.float32(value) if isinstance(value, float) else value
        for name, value in constants.items()
    }
    body = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, 1, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, 1, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    proto = helper.make_model(body, opset_imports=imports, ir_version=8 if opset < 19 else 9)
    graph.write(proto, folder / "onnx" / "model.onnx")
    return Model.seal(folder, graph.signature(proto), meta={"producer": "test"})


def conv_net(folder: Path, *, batch: int | str = "n") -> Model:
    """Two convolutions, a Relu, a pool and a Gemm; input [batch, 3, 8, 8]."""
    nodes = [
        node("Conv", ["image", "w1", "b1"], ["c1"], name="first", pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"], name="relu"),
        node("Conv", ["r1", "w2", "b2"], ["c2"], name="second"),
        node("GlobalAveragePool", ["c2"], ["p"], name="pool"),
        node("Flatten", ["p"], ["f"], name="flatten"),
        node("Gemm", ["f", "w3", "b3"], ["logits"], name="head", transB=1),
    ]
    constants = {
        "w1": floats(16, 3, 3, 3, seed=1),
        "b1": floats(16, seed=2),
        "w2": floats(32, 16, 3, 3, seed=3) / 4,
        "b2": floats(32, seed=6),
        "w3": floats(10, 32, seed=4),
        "b3": floats(10, seed=5),
    }
    return seal(
        folder,
        nodes,
        constants,
        inputs={"image": (batch, 3, 8, 8)},
        outputs={"logits": (batch, 10)},
    )


def mlp(folder: Path) -> Model:
    """Two matrix products, one of them a Gemm; input [n, 64]."""
    nodes = [
        node("MatMul", ["x", "w1"], ["h"], name="hidden"),
        node("Relu", ["h"], ["r"], name="relu"),
        node("Gemm", ["r", "w2", "b2"], ["y"], name="out", transB=1),
    ]
    constants = {
        "w1": floats(64, 128, seed=1) / 8,
        "w2": floats(32, 128, seed=2) / 8,
        "b2": floats(32, seed=3),
    }
    return seal(folder, nodes, constants, inputs={"x": ("n", 64)}, outputs={"y": ("n", 32)})


def target(*isa: str, device: str = "cpu", architecture: str = "x86_64") -> Target:
    machine = Machine(
        cpu="test",
        architecture=architecture,
        platform="linux",
        isa=isa,
        cpus=(0,),
        physical_cores=1,
        memory_bytes=2**32,
        python="3.11",
    )
    return Target(machine=machine, device=device)


def dataset(model: Model, rows: int) -> Dataset:
    """Random rows for a model with one input."""
    (spec,) = model.signature.inputs
    assert spec.shape is not None
    sizes = [int(dim) for dim in spec.shape[1:]]  # type: ignore[arg-type]
    return read({spec.name: floats(rows, *sizes, seed=9)}, model.signature)


def apply(
    technique: Technique,
    model: Model,
    folder: Path,
    *,
    data: Mapping[str, Dataset] | None = None,
    **params: Any,
) -> Model:
    """`model` after `technique` with its default parameters but `params`."""
    folder.mkdir()
    goal = target("avx512_vnni")
    given = technique.space(model, goal).default | params
    return technique.apply(model, given, Context(workdir=folder, target=goal, data=data or {}))


def proto_of(model: Model) -> onnx.ModelProto:
    return graph.read(model.forms["onnx"])


def operators(model: Model) -> dict[str, int]:
    return dict(graph.operators(proto_of(model)))


def run(model: Model, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return Runner(proto_of(model)).run(arrays)
