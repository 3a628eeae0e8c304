"""Quantisation-aware training: what is trained is what the engines run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from strop import data, engines, models
from strop.data import Dataset
from strop.errors import NotApplicable
from strop.models import graph
from strop.models.model import Model
from strop.models.onnx_converter import form_of, to_module
from strop.models.parity import relative_errors
from strop.records import SessionSpec
from strop.techniques import Context, fake_quant, qat
from strop.techniques.calibration_rows import Rows
from strop.techniques.fake_quant import ActivationStep, BiasStep, FakeQuantised, WeightStep
from strop.techniques.folding import prepare
from strop.techniques.int8_static import Quantiser
from strop.techniques.onnx_view import GraphView
from strop.techniques.qat import BOUND, QuantisationAware, _exported, disagreement, unsteadiness
from strop.techniques.quantisable import plan
from strop.testing import graphs
from strop.testing.targets import target
from strop.testing.techniques import TechniqueConformance

from . import small_modules as small

SOURCES = {
    "residual": (small.RESIDUAL, small.images()),
    "encoder": (small.ENCODER, small.sequences()),
}


@pytest.fixture(autouse=True, scope="module")
def short() -> Iterator[None]:
    """Two passes over the rows, which is enough to change everything that changes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qat, "EPOCHS", 2.0)
        yield


class TestConformance(TechniqueConformance):
    technique = "qat"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Model, Dataset]]:
    return {
        name: small.write(source, x, tmp_path_factory.mktemp(name))
        for name, (source, x) in SOURCES.items()
    }


@pytest.fixture(scope="module", params=sorted(SOURCES))
def trained(
    request: pytest.FixtureRequest,
    written: dict[str, tuple[Model, Dataset]],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Model, Model, Dataset]:
    """The original, what QAT made of it, and the rows."""
    model, rows = written[request.param]
    return model, apply(model, rows, tmp_path_factory.mktemp("trained") / "out"), rows


def apply(model: Model, rows: Dataset, workdir: Path) -> Model:
    workdir.mkdir()
    technique = QuantisationAware()
    params = technique.space(model, target()).default
    return technique.apply(
        model, params, Context(workdir, target(), {"train": rows}, teacher=model)
    )


def run(model: Model, engine: str, rows: Dataset, workdir: Path) -> dict[str, np.ndarray]:
    workdir.mkdir()
    artifact = engines.get(engine).build(model, {}, workdir)
    spec = SessionSpec(engine=engine, artifact=str(artifact), signature=model.signature)
    session = engines.open_session(spec)
    try:
        return session.run(rows.inputs())
    finally:
        session.close()


def context(folder: Path, rows: Dataset) -> Context:
    workdir = folder / "work"
    workdir.mkdir(parents=True)
    return Context(workdir, target(), {"train": rows})


def start(model: Model, low: float, high: float) -> tuple[FakeQuantised, onnx.ModelProto]:
    """A fake-quantised network with the same range everywhere."""
    network = prepare(graph.read(model.forms["onnx"]))
    chosen = plan(GraphView(network))
    return FakeQuantised(network, chosen, dict.fromkeys(chosen.tensors, (low, high))), network


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_both_engines_give_what_the_original_gives(
    trained: tuple[Model, Model, Dataset], engine: str, tmp_path: Path
) -> None:
    model, after, rows = trained
    wanted = run(model, "onnxruntime", rows, tmp_path / "float")
    found = run(after, engine, rows, tmp_path / "int8")
    for name, value in wanted.items():
        assert np.median(relative_errors(value, found[name])) < 0.15


def test_the_integer_graph_equals_what_was_trained(trained: tuple[Model, Model, Dataset]) -> None:
    assert trained[1].meta["qat"]["disagreement"] <= BOUND


def test_a_bare_sequence_is_a_module_like_any_other(tmp_path: Path) -> None:
    """NNCF's way through PyTorch fails on one."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    x = np.random.default_rng(0).standard_normal((128, 6), dtype=np.float32)
    (tmp_path / "model").mkdir()
    model = models.load(module, workdir=tmp_path / "model", examples={"input": x[:8]})
    after = apply(model, data.read({"input": x}, model.signature), tmp_path / "out")
    assert len(after.meta["int8_layers"]) == 2
    assert after.meta["qat"]["disagreement"] <= BOUND


def test_openvino_executes_the_layers_in_integers(trained: tuple[Model, Model, Dataset]) -> None:
    engines.quiet_telemetry()
    import openvino

    model = openvino.Core().read_model(trained[1].forms["onnx"])
    compiled = openvino.Core().compile_model(model, "CPU")
    layers = [
        node.get_rt_info()
        for node in compiled.get_runtime_model().get_ordered_ops()
        if node.get_rt_info()["layerType"].astype(str) in ("Convolution", "FullyConnected")
    ]
    integers = [one for one in layers if one["runtimePrecision"].astype(str) in ("u8", "i8")]
    assert layers and len(integers) == len(layers)


def test_onnx_runtime_executes_the_layers_in_integers(
    trained: tuple[Model, Model, Dataset], tmp_path: Path
) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(
        trained[1].forms["onnx"].read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert not kinds.keys() & {"Conv", "FusedConv", "Gemm", "FusedGemm"}
    integers = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat")
    assert sum(kinds[kind] for kind in integers) == len(trained[1].meta["int8_layers"])


def test_the_bound_holds_after_every_step_has_moved(
    written: dict[str, tuple[Model, Dataset]],
) -> None:
    model, rows = written["residual"]
    fake, _ = start(model, -3.0, 3.0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in fake.module.modules():
            if isinstance(part, ActivationStep | WeightStep):
                part.growth += 0.2 * torch.randn(part.growth.shape, generator=generator)
    form = form_of(model.signature)
    assert disagreement(fake.module, form, fake.export(), rows.inputs()) <= BOUND


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("kind", sorted(SOURCES))
def test_training_begins_where_rounding_ended(
    written: dict[str, tuple[Model, Dataset]], kind: str, share: float, tmp_path: Path
) -> None:
    model, rows = written[kind]
    network = prepare(graph.read(model.forms["onnx"]))
    kept, begun = qat._start(network, model, share, 4, context(tmp_path, rows))
    assert len(kept) == int(share * (len(kept) + len(begun.plan.layers)))
    fake = FakeQuantised(begun.network, begun.plan, begun.ranges, bits=4, scales=begun.scales)
    chosen = Rows.of(model, rows, 0)
    quantiser = Quantiser(
        network,
        chosen.batches,
        chosen.sample(),
        qat.START,
        bits=4,
        ctx=context(tmp_path / "b", rows),
    )
    form = form_of(model.signature)
    wanted = quantiser.build(kept)
    assert disagreement(fake.module, form, wanted, rows.inputs()) <= BOUND
    assert stored_weights(fake.export()) == stored_weights(wanted)


def stored_weights(network: onnx.ModelProto) -> dict[str, bytes]:
    arrays = {e.name: numpy_helper.to_array(e) for e in network.graph.initializer}
    return {name: array.tobytes() for name, array in arrays.items() if array.dtype == np.int8}


def test_training_wins_back_what_rounding_lost(
    written: dict[str, tuple[Model, Dataset]], tmp_path: Path
) -> None:
    model, rows = written["residual"]
    network = prepare(graph.read(model.forms["onnx"]))
    _, begun = qat._start(network, model, 0.0, 3, context(tmp_path, rows))
    fake = FakeQuantised(begun.network, begun.plan, begun.ranges, bits=3, scales=begun.scales)
    teacher = to_module(network, check=False)
    x = torch.from_numpy(rows.inputs()["x"])
    with torch.no_grad():
        wanted = teacher(x)
    free = [p for p in fake.module.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(free, lr=1e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (fake.module(x) - wanted).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert min(losses[-5:]) < 0.2 * losses[0]


def test_training_moves_steps_weights_and_biases(
    written: dict[str, tuple[Model, Dataset]],
) -> None:
    model, rows = written["encoder"]
    fake, _ = start(model, -2.0, 2.0)
    x = torch.from_numpy(rows.inputs()["x"])
    fake.module(x).square().sum().backward()
    moved = {n for n, p in fake.module.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(name.endswith("weight.original") for name in moved)
    assert any(name.endswith("bias") for name in moved)
    assert any("step" in name and name.endswith("growth") for name in moved)
    assert any("parametrizations" in name and name.endswith("growth") for name in moved)


def test_weights_are_written_back_where_the_graph_has_them(
    written: dict[str, tuple[Model, Dataset]],
) -> None:
    model, _ = written["encoder"]
    fake, network = start(model, -8.0, 8.0)
    with torch.no_grad():
        for name, parameter in fake.module.named_parameters():
            if parameter.requires_grad and not name.endswith("growth"):
                parameter *= 0.5
    halved = fake._trained()
    module = to_module(halved, check=False)
    for name, parameter in module.named_parameters():
        theirs = dict(to_module(network, check=False).named_parameters())[name]
        if name.endswith(("weight", "bias")) and "norm" not in name and "last" not in name:
            assert torch.allclose(parameter, 0.5 * theirs), name


def test_step_gradients_are_those_of_the_paper() -> None:
    step = ActivationStep(-1.0, 2.0)
    x = torch.tensor([-5.0, -0.4, 0.1, 0.77, 9.0], requires_grad=True)
    step(x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 1, 1, 1, 0]
    low, high = step.growth.grad.tolist()
    # A value beyond a bound moves with it: d(clipped)/d(log bound) is the bound itself, over
    # sqrt(values * levels); the others give rounding errors below one step.
    weight = (5 * 255) ** 0.5
    assert low * weight == pytest.approx(-1.0, abs=0.05)
    assert high * weight == pytest.approx(2.0, abs=0.05)


def test_zero_stays_exact() -> None:
    step = ActivationStep(-0.37, 1.91)
    assert step(torch.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("part", [7, 1 << 17])
def test_rounding_by_parts_is_rounding(
    part: int, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_quant, "_PART", part)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 4, 3, 2, generator=generator).to(memory_format=layout)
    slope = torch.randn(x.shape, generator=generator)
    results = []
    for kind in (fake_quant._Round, fake_quant._RoundByParts):
        given = [x.clone(), torch.tensor([0.02]), torch.tensor([100.0])]
        given = [tensor.requires_grad_() for tensor in given]
        out = kind.apply(*given, 0, 255)
        out.backward(slope)
        results.append([out.detach(), *(tensor.grad for tensor in given)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    inside = results[0][0] != results[0][0].min()
    assert 0 < int(inside.sum()) < x.numel()  # some values were beyond a bound


def test_biases_are_rounded_to_the_unit_of_the_integer_sums() -> None:
    unit = 0.01 * 0.5
    rounding = BiasStep(ActivationStep(0.0, 2.55), WeightStep(np.array([0.5, 0.5]), 8))
    bias = torch.tensor([0.0123, -0.0049], requires_grad=True)
    found = rounding(bias)
    assert found.tolist() == pytest.approx([2 * unit, -1 * unit])
    found.sum().backward()
    assert bias.grad is not None
    assert bias.grad.tolist() == [1.0, 1.0]


def test_a_graph_that_is_not_what_is_trained_is_refused_before_training(
    written: dict[str, tuple[Model, Dataset]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = written["residual"]
    fake, _ = start(model, -3.0, 3.0)
    form, inputs = form_of(model.signature), rows.inputs()
    assert _exported(fake, form, inputs)[1] <= BOUND
    other, _ = start(model, -1.0, 1.0)
    monkeypatch.setattr(fake, "export", other.export)
    with pytest.raises(NotApplicable, match="differs from what is trained"):
        _exported(fake, form, inputs)


class Amplifier(torch.nn.Module):
    """Turns the last bits of what a layer sums up into outputs, `gain` times as large."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)
        self.gain = gain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(self.gain * self.layer(x.flatten(1)[:, :4]))


def test_a_network_is_unsteady_as_far_as_last_bits_change_it(
    written: dict[str, tuple[Model, Dataset]],
) -> None:
    model, rows = written["residual"]
    form, inputs = form_of(model.signature), rows.inputs()
    found = [unsteadiness(Amplifier(gain), form, inputs) for gain in (1.0, 1e4, 1e7)]
    assert found[0] < 1e-5 < found[1] < 0.1 < 0.5 < found[2]


def test_shared_ranges_are_one_step(tmp_path: Path) -> None:
    source = (
        small.HEADER
        + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(1, 8, 3, padding=1)
        self.c, self.d = nn.Conv2d(16, 4, 3), nn.Conv2d(4, 4, 1)
    def forward(self, x):
        x = torch.cat([torch.relu(self.a(x)), torch.relu(self.b(x))], 1)
        return self.d(torch.relu(self.c(x)))
def build():
    return Net().eval()
"""
    )
    model, rows = small.write(source, small.images(), tmp_path)
    fake, network = start(model, 0.0, 3.0)
    chosen = plan(GraphView(network))
    assert max(len(group) for group in chosen.groups) == 3
    steps = [part for part in fake.module.modules() if isinstance(part, ActivationStep)]
    assert len(steps) == len(chosen.groups)
    form = form_of(model.signature)
    assert disagreement(fake.module, form, fake.export(), rows.inputs()) <= BOUND


def test_a_graph_without_layers_is_refused(tmp_path: Path) -> None:
    answer = QuantisationAware().applies(graphs.no_weights().write(tmp_path / "model"), target())
    assert not answer and "no float32 convolution" in answer.reason


def test_a_share_is_tried_where_it_keeps_a_layer(tmp_path: Path) -> None:
    """A tenth of four layers is none: `keep_float` would then keep one all the same."""
    for depth, shares in ((4, (0.0,)), (12, (0.0, 0.1))):
        torch.manual_seed(0)
        layers = [part for _ in range(depth) for part in (torch.nn.Linear(6, 6), torch.nn.ReLU())]
        (tmp_path / str(depth)).mkdir()
        model = models.load(
            torch.nn.Sequential(*layers),
            workdir=tmp_path / str(depth),
            examples={"input": np.ones((8, 6), np.float32)},
        )
        choices = {
            one.name: one.values for one in QuantisationAware().space(model, target()).choices
        }
        assert choices["keep_float"] == shares


@pytest.mark.parametrize("trained", ["encoder"], indirect=True)
def test_equal_seeds_give_equal_models(
    trained: tuple[Model, Model, Dataset], tmp_path: Path
) -> None:
    model, after, rows = trained
    assert apply(model, rows, tmp_path / "again").digest == after.digest
