from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from strop import data, techniques
from strop.models import graph, module_plan
from strop.models.model import Model
from strop.models.module_form import open_module
from strop.models.module_writer import write_module
from strop.models.parity import parity
from strop.models.runner import Runner
from strop.records import Applicability, Space, Target
from strop.search.space import joint_space, original_recipe
from strop.techniques import Context, Technique
from strop.techniques.to_module import has_module
from strop.testing import graphs
from strop.testing.targets import target
from strop.testing.techniques import TechniqueConformance

torch = pytest.importorskip("torch")


class TestToModule(TechniqueConformance):
    technique = "to-module"

    def write_unsuitable(self, folder: Path) -> Model:
        return _converted(graphs.perceptron(), folder.parent)


def _converted(case: graphs.Case, folder: Path) -> Model:
    given = case.write(folder / "given")
    examples = data.read(case.inputs(8, 0), given.signature)
    workdir = folder / "converted"
    workdir.mkdir()
    context = Context(workdir, target(), {"calibrate": examples}, 0)
    return techniques.get("to-module").apply(given, {}, context)


def test_the_module_gives_what_the_graph_gives(tmp_path: Path) -> None:
    case = graphs.convolutional()
    form, module = open_module(_converted(case, tmp_path))
    arrays = case.inputs(3, 2)
    with torch.no_grad():
        found = form.run(module, {name: torch.tensor(a) for name, a in arrays.items()})
    assert parity(case.answer(arrays), {name: t.numpy() for name, t in found.items()}).ok


def test_a_changed_module_is_written_and_opened_again(tmp_path: Path) -> None:
    case = graphs.convolutional()
    before = _converted(case, tmp_path)
    form, module = open_module(before)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.1)
    arrays = case.inputs(4, 2)
    after = write_module(module, before, [], tmp_path / "after", examples=arrays)
    assert after.signature == before.signature
    assert (after.path / "module" / module_plan.BASE).is_file()
    again = open_module(Model.open(after.path))[1]
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    with torch.no_grad():
        tensors = form.run(module, {name: torch.tensor(a) for name, a in arrays.items()})
    exported = Runner(graph.read(after.forms["onnx"])).run(arrays)
    assert parity({name: t.numpy() for name, t in tensors.items()}, exported).ok
    assert not parity(case.answer(arrays), exported).ok


def test_layers_can_be_pruned(tmp_path: Path) -> None:
    torch_pruning = pytest.importorskip("torch_pruning")
    form, module = open_module(_converted(graphs.convolutional(), tmp_path))
    image = torch.zeros(2, 3, 10, 10)
    convolutions = [part for part in module.modules() if isinstance(part, torch.nn.Conv2d)]
    dependencies = torch_pruning.DependencyGraph().build_dependency(module, image)
    first = convolutions[0]
    prune = torch_pruning.prune_conv_out_channels
    dependencies.get_pruning_group(first, prune, idxs=list(range(8))).prune()
    dependencies.get_pruning_group(convolutions[1], prune, idxs=list(range(16))).prune()
    assert (first.out_channels, convolutions[1].in_channels) == (8, 8)
    assert form.run(module, {"image": image})["logits"].shape == (2, 10)


class _Trains(Technique):
    name = "trains"
    consumes = "module"
    produces = ("module", "onnx")
    stage = 4

    def applies(self, model: Model, target: Target) -> Applicability:
        return has_module(model)

    def space(self, model: Model, target: Target) -> Space:
        return Space()

    def apply(self, model: Model, params: object, ctx: Context) -> Model:
        raise AssertionError


def test_is_proposed_in_front_of_what_takes_a_module_and_never_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {name: techniques.get(name) for name in ("to-module", "cleanup")}
    known["trains"] = _Trains()
    monkeypatch.setattr(techniques, "names", lambda: list(known))
    monkeypatch.setattr(techniques, "get", known.__getitem__)
    model = graphs.perceptron().write(tmp_path / "model")
    space = joint_space(model, target(), only_engines=["onnxruntime"], roles=("calibrate", "train"))
    pipelines = {tuple(step.technique for step in recipe.steps) for recipe in space.recipes}
    assert pipelines == {
        (),
        ("cleanup",),
        ("to-module", "trains"),
        ("to-module", "trains", "cleanup"),
    }
    assert original_recipe(model, target()).deploy.engine == "onnxruntime"


def test_one_with_a_module_of_its_own_is_left_alone(tmp_path: Path) -> None:
    answer = techniques.get("to-module").applies(
        _converted(graphs.perceptron(), tmp_path), target()
    )
    assert not answer and "already" in answer.reason


def test_distils_a_model_that_came_as_onnx(tmp_path: Path) -> None:
    from strop.techniques.distil import Distillation

    case = graphs.perceptron()
    given = case.write(tmp_path / "original")
    before = _converted(case, tmp_path)
    technique = Distillation()
    assert technique.applies(given, target())
    examples = data.read(case.inputs(96, 3), given.signature)
    workdir = tmp_path / "student"
    workdir.mkdir()
    context = Context(workdir, target(), {"train": examples}, 0, teacher=given, seconds=1e6)
    params = {**technique.space(given, target()).default, "student": "narrow-0.5"}
    after = technique.apply(before, params, context)
    assert after.signature == given.signature
    weights = [graph.weight_bytes(graph.read(one.forms["onnx"])) for one in (after, given)]
    assert weights[0] < 0.6 * weights[1]
    outputs = Runner(graph.read(after.forms["onnx"])).run(case.inputs(5, 4))
    assert np.isfinite(outputs["y"]).all()
