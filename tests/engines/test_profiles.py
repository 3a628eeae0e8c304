"""What the engines' own profilers tell, matched to the nodes of the file that they ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from strop import engines
from strop.engines import Engine, OperatorTimes
from strop.engines.onnxruntime_profile import _own_time
from strop.errors import InputError, NotApplicable
from strop.models.model import Model
from strop.records import Applicability, Placement, Signature, Space, Target, TensorSpec

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=("n", 16, 12, 12)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("n", 4)),),
)
NODES = {"conv1", "relu1", "conv2", "sum", "relu2", "pool", "flat", "fc"}


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A residual block, which engines fuse into two convolutions, and a head."""
    random = np.random.default_rng(0)
    stored = {
        "w1": random.standard_normal((16, 16, 3, 3)),
        "w2": random.standard_normal((16, 16, 3, 3)),
        "b1": random.standard_normal(16),
        "b2": random.standard_normal(16),
        "head": random.standard_normal((16, 4)),
    }
    pads = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="conv1", **pads),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], name="conv2", **pads),
        helper.make_node("Add", ["c2", "r1"], ["s"], name="sum"),
        helper.make_node("Relu", ["s"], ["r2"], name="relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("MatMul", ["f", "head"], ["y"], name="fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in stored.items()],
    )
    path = tmp_path_factory.mktemp("residual") / "model.onnx"
    opsets = [helper.make_opsetid("", 17)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def _profile(engine: str, artifact: Path, options: dict[str, Any]) -> OperatorTimes:
    arrays = {"x": np.random.default_rng(1).standard_normal((2, 16, 12, 12)).astype(np.float32)}
    return engines.get(engine).profile(artifact, SIGNATURE, options, Placement(), arrays, 6)


@pytest.mark.parametrize("level", ["all", "extended", "off"])
def test_onnxruntime_names_each_node_once_however_it_was_fused(residual: Path, level: str) -> None:
    found = _profile("onnxruntime", residual, {"graph": level})
    named = [node for timed in found.operators for node in timed.nodes]
    assert sorted(named) == sorted(NODES)
    assert all(timed.seconds > 0 or timed.operator == "Flatten" for timed in found.operators)
    assert all(timed.low <= timed.high for timed in found.operators)
    assert {timed.precision for timed in found.operators} == {"float32"}
    if level == "off":
        assert len(found.operators) == len(NODES)


def test_a_blocked_convolution_stands_for_the_sum_and_the_activation_too(residual: Path) -> None:
    found = _profile("onnxruntime", residual, {"graph": "all"})
    blocked = [timed for timed in found.operators if timed.name.endswith("_nchwc")]
    if not blocked:
        pytest.skip("ONNX Runtime uses no blocked layout on this processor")
    second = next(timed for timed in blocked if "conv2" in timed.nodes)
    assert set(second.nodes) == {"conv2", "sum", "relu2"}


def test_openvino_names_the_layers_that_a_primitive_executes(
    residual: Path, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    engine = engines.get("openvino")
    model = Model(tmp_path, SIGNATURE, "", {"onnx": residual})
    found = _profile("openvino", engine.build(model, {}, tmp_path), {"shapes": "static"})
    tensors = {name: timed for timed in found.operators for name in timed.tensors}
    assert tensors["c1"].precision == "float32"
    assert tensors["c1"].kernel and tensors["c1"].seconds > 0
    assert tensors["c1"] is not tensors["c2"]
    named = {node for timed in found.operators for node in timed.nodes}
    assert {"conv1", "relu1", "conv2"} <= named
    assert tensors["y"].seconds >= 0  # OpenVINO calls the last node after its tensor
    assert found.outside_seconds >= 0


def test_torch_names_the_module_that_calls(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    import torch

    from strop.engines.torch_profile import profile

    net = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    x = torch.zeros(4, 8)
    with torch.inference_mode():
        found = profile(lambda: net(x), 5)
    linear = [timed for timed in found.operators if timed.operator == "aten::linear"]
    assert [timed.nodes for timed in linear] == [("0",), ("2",)]
    assert [timed.flops for timed in linear] == [2 * 4 * 8 * 32, 2 * 4 * 32 * 2]
    assert len({timed.name for timed in found.operators}) == len(found.operators)
    assert net(x).shape == (4, 2)  # no hook stays behind


def test_inputs_that_do_not_fit_are_refused(residual: Path) -> None:
    with pytest.raises(InputError, match="'x'"):
        engines.get("onnxruntime").profile(residual, SIGNATURE, {}, Placement(), {}, 1)


def test_an_engine_without_a_profiler_says_so(tmp_path: Path) -> None:
    class Bare(Engine):
        name = "bare"

        def available(self) -> Applicability:
            return Applicability.yes()

        def applies(self, model: Model, target: Target) -> Applicability:
            return Applicability.yes()

        def space(self, model: Model, target: Target) -> Space:
            return Space()

        def build(self, model: Model, options: Any, workdir: Path) -> Path:
            return workdir

        def load(self, *arguments: Any) -> Any:
            raise NotImplementedError

    with pytest.raises(NotApplicable, match="'bare' keeps no times"):
        Bare().profile(tmp_path, SIGNATURE, {}, Placement(), {}, 1)


def test_bodies_of_loops_are_not_counted_twice() -> None:
    events = [
        {"name": "loop", "ts": 0, "dur": 100},
        {"name": "inner", "ts": 10, "dur": 30},
        {"name": "inner", "ts": 50, "dur": 20},
        {"name": "after", "ts": 100, "dur": 5},
    ]
    own = [(event["name"], seconds) for event, seconds in _own_time(list(events))]
    assert own == [("loop", 50.0), ("inner", 30.0), ("inner", 20.0), ("after", 5.0)]
