from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import torch
from torch import nn

from strop import data, engines, models, techniques, training
from strop.errors import ModelError, NotApplicable
from strop.models import graph
from strop.models.model import Model, ModuleSource
from strop.models.module_form import ModuleForm, open_module
from strop.records import SessionSpec, Step
from strop.techniques import Context, distil
from strop.techniques.shallow import least_needed, shallower
from strop.testing.targets import target

PARAMS = {"student": "narrow-0.5", "transfer": "none", "temperature": 4.0, "labels": 0.3}
CLASSES = 3


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))
        self.second = nn.Conv2d(width, width, 1)

    def forward(self, x):
        return x + self.second(torch.relu(self.first(x)))


class Net(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Residual(width) for _ in range(3)))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, image):
        return self.head(torch.relu(self.blocks(self.stem(image))).mean((2, 3)))


def images(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Three kinds of stripes in noise."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, CLASSES, rows)
    place = np.arange(6)
    stripes = np.stack(
        [
            np.broadcast_to(np.sin(place * 2)[:, None], (6, 6)),
            np.broadcast_to(np.sin(place * 2)[None], (6, 6)),
            np.zeros((6, 6)),
        ]
    )
    pixels = stripes[kinds] + 0.4 * rng.normal(size=(rows, 6, 6))
    return {"image": pixels[:, None].astype(np.float32), "target": kinds}


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    net, given = Net(), images(512, 0)
    x, y = torch.from_numpy(given["image"]), torch.from_numpy(given["target"])
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(25):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def model(net: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return models.load(
        net, workdir=tmp_path_factory.mktemp("model"), examples={"image": images(8, 9)["image"]}
    )


def apply(
    model: Model,
    folder: Path,
    *,
    teacher: Model | None = None,
    given: Mapping[str, np.ndarray] | None = None,
    params: Mapping[str, object] = PARAMS,
    **more: object,
) -> Model:
    folder.mkdir()
    train = data.read(dict(given or images(768, 1)), model.signature)
    context = Context(folder, target(), {"train": train}, teacher=teacher or model, **more)
    return techniques.get("distil").apply(model, params, context)


def accuracy(model: Model, folder: Path, engine: str = "onnxruntime") -> float:
    folder.mkdir()
    test = images(300, 7)
    artifact = engines.get(engine).build(model, {}, folder)
    spec = SessionSpec(engine=engine, artifact=str(artifact), signature=model.signature)
    payload = model.source.payload if model.source else None
    session = engines.open_session(spec, payload=payload)
    decided = session.run({"image": test["image"]})["output"].argmax(1)
    session.close()
    return float((decided == test["target"]).mean())


@pytest.fixture(scope="module")
def narrow(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return apply(model, tmp_path_factory.mktemp("narrow") / "out")


def size(model: Model) -> int:
    return sum(p.numel() for p in open_module(model)[1].parameters())


def test_a_narrow_student_keeps_what_the_original_knows(model, narrow, tmp_path) -> None:
    assert size(narrow) < 0.35 * size(model)
    assert narrow.signature == model.signature
    assert set(narrow.forms) == {"module", "onnx"}
    before = accuracy(model, tmp_path / "before")
    assert before > 0.9
    assert accuracy(narrow, tmp_path / "after") > before - 0.05
    facts = narrow.meta["distil"]
    assert facts["student"] == "narrow-0.5"
    assert facts["best"] > facts["before"]


def test_eager_pytorch_runs_the_student_as_well(narrow, tmp_path) -> None:
    eager = accuracy(narrow, tmp_path / "eager", "torch")
    assert eager == accuracy(narrow, tmp_path / "onnx")


def test_what_is_written_holds_a_plan_and_tensors_and_no_pickle(narrow) -> None:
    folder = narrow.path / "module"
    assert {file.name for file in folder.iterdir()} == {"module.json", "state.safetensors"}
    form = json.loads((folder / "module.json").read_text())
    assert [op["op"] for op in form["plan"]] == ["prune"]


def test_equal_seeds_give_equal_models_and_the_original_stays(model, narrow, tmp_path) -> None:
    before = {p: p.read_bytes() for p in model.path.rglob("*") if p.is_file()}
    torch.manual_seed(9)
    again = apply(model, tmp_path / "again")
    for file in sorted(narrow.path.rglob("*.*")):
        assert (again.path / file.relative_to(narrow.path)).read_bytes() == file.read_bytes()
    assert again.digest == narrow.digest
    assert again.meta == narrow.meta
    assert before == {p: p.read_bytes() for p in model.path.rglob("*") if p.is_file()}


def test_a_student_is_the_start_of_another_step(model, narrow, tmp_path) -> None:
    narrow = Model.open(narrow.path, source=model.source)
    twice = apply(narrow, tmp_path / "twice", teacher=model, params={**PARAMS, "student": "same"})
    assert size(twice) == size(narrow)
    plan = ModuleForm.read(twice.forms["module"]).plan
    assert plan[0] == ModuleForm.read(narrow.forms["module"]).plan[0]
    assert accuracy(twice, tmp_path / "after") > 0.85


def test_a_student_is_taught_on_for_seconds_of_its_own(model, narrow, tmp_path) -> None:
    earlier = [Step(technique="distil", params={**PARAMS, "transfer": "attention"})]
    params = techniques.get("distil").further(earlier, 600.0)
    assert params == {**PARAMS, "transfer": "attention", "student": "same", "seconds": 600.0}
    lines: list[str] = []
    # The step's share would be too short: what counts is what the step says.
    again = apply(
        narrow, tmp_path / "out", teacher=model, params=params, seconds=1e-3, emit=lines.append
    )
    facts = again.meta["distil"]
    assert size(again) == size(narrow) and facts["steps"] > 0
    assert facts["earlier"] == narrow.meta["distil"], "what was told before is kept"
    assert facts["best"] >= facts["before"] >= narrow.meta["distil"]["best"] - 1e-6
    other = [Step(technique="qat", params={})]
    assert techniques.get("distil").further(other, 600.0) is None


def test_a_shallow_student_leaves_blocks_out(model, tmp_path) -> None:
    shallow = apply(model, tmp_path / "out", params={**PARAMS, "student": "shallow-0.5"})
    (op,) = ModuleForm.read(shallow.forms["module"]).plan
    assert op["op"] == "drop-blocks" and len(op["names"]) == 1
    assert accuracy(shallow, tmp_path / "after") > 0.85


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, x):
        return x + self.norm(self.linear(x))


class Stack(nn.Module):
    """Six blocks, of which the third and the fifth do next to nothing, and the last the most."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.blocks = nn.ModuleList(Layer() for _ in range(6))
        with torch.no_grad():
            for place, block in enumerate(self.blocks):
                block.norm.weight.fill_(1e-3 if place in (2, 4) else 1.0 + place)

    def forward(self, input):
        for block in self.blocks:
            input = block(input)
        return input


def test_the_blocks_that_go_are_those_that_change_the_outputs_least() -> None:
    inputs = {"input": torch.randn(16, 8, generator=torch.Generator().manual_seed(5))}
    stack = Stack().eval()
    assert shallower(stack, FORM, inputs, 0.67)["names"] == ["blocks.2", "blocks.4"]
    (found,) = least_needed(stack, FORM, inputs, ["blocks.2", "blocks.5"], 1, [inputs])
    assert found == "blocks.2"


def test_of_blocks_that_do_as_little_the_later_goes() -> None:
    stack = Stack().eval()
    with torch.no_grad():
        for block in stack.blocks:
            block.norm.weight.zero_()
    inputs = {"input": torch.ones(4, 8)}
    assert shallower(stack, FORM, inputs, 0.5)["names"] == ["blocks.3", "blocks.4", "blocks.5"]


def test_blocks_that_cannot_be_missed_are_a_reason() -> None:
    class Counted(Stack):
        def forward(self, input):
            widths = [block.linear.out_features for block in self.blocks]  # a Skip has none
            return super().forward(input) * len(widths)

    with pytest.raises(NotApplicable, match="does not run when it is smaller"):
        shallower(Counted().eval(), FORM, {"input": torch.ones(4, 8)}, 0.5)


def test_a_student_of_the_users_own(model, tmp_path) -> None:
    file = tmp_path / "small.py"
    file.write_text(
        "import torch\nfrom torch import nn\n"
        "class Small(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(1, 6, 3, padding=1)\n"
        "        self.head = nn.Linear(6, 3)\n"
        "    def forward(self, image):\n"
        "        return self.head(torch.relu(self.conv(image)).mean((2, 3)))\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    return Small()\n"
    )
    params = {**PARAMS, "student": "small.py:make#1"}
    own = apply(model, tmp_path / "out", params=params, student=f"{file}:make")
    assert size(own) == 6 * 9 + 6 + 6 * 3 + 3
    assert accuracy(own, tmp_path / "after") > 0.8
    assert accuracy(Model.open(own.path), tmp_path / "eager", "torch") > 0.8


def test_it_learns_without_labels(model, tmp_path) -> None:
    given = {"image": images(768, 1)["image"]}
    assert accuracy(apply(model, tmp_path / "out", given=given), tmp_path / "after") > 0.85


@pytest.mark.parametrize("transfer", ["attention", "features"])
def test_what_lies_inside_can_be_matched_too(model, tmp_path, transfer) -> None:
    found = apply(model, tmp_path / "out", params={**PARAMS, "transfer": transfer})
    assert accuracy(found, tmp_path / "after") > 0.85


def test_a_student_is_the_same_only_after_a_step_that_made_it_smaller() -> None:
    technique = techniques.get("distil")
    same, copy = {"student": "same"}, {"student": "narrow-0.5"}
    pruned = [Step(technique="prune")]
    assert technique.follows(pruned, same) and technique.follows([], copy)
    assert not technique.follows([], same) and not technique.follows(pruned, copy)


def test_the_space_is_small_and_puts_the_users_own_first(model) -> None:
    technique = techniques.get("distil")
    assert len(list(technique.space(model, target()).grid())) <= 4
    own = dataclasses.replace(model, meta={**model.meta, "student": "a.py:f#1"})
    students = [params["student"] for params in technique.space(own, target()).grid()]
    assert students == ["a.py:f#1", "same"]


def test_encoders_are_made_shallower_and_matched_inside(tmp_path) -> None:
    from onnx import TensorProto, helper, save

    nodes = [
        helper.make_node("MatMul", ["x", "x"], ["a"]),
        helper.make_node("Softmax", ["a"], ["b"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4, 4]) for n in ("x", "b")]
    proto = helper.make_model(helper.make_graph(nodes, "attention", ends[:1], ends[1:]))
    (tmp_path / "onnx").mkdir()
    save(proto, tmp_path / "onnx" / "model.onnx")
    encoder = Model.seal(tmp_path, graph.signature(proto))
    space = list(techniques.get("distil").space(encoder, target()).grid())
    assert [params["student"] for params in space] == ["shallow-0.67", "same"]
    assert {params["transfer"] for params in space} == {"features"}


@pytest.mark.parametrize(
    ("encoder", "student", "highest"),
    [(True, "shallow-0.5", 1e-3), (False, "shallow-0.5", 1e-2), (True, "small.py:make#1", 1e-2)],
)
def test_what_was_pretrained_is_taught_at_lower_rates(
    model, tmp_path, monkeypatch, encoder, student, highest
) -> None:
    class Asked(Exception):
        pass

    def note(*given, settings, **more):
        raise Asked(settings.rates)

    monkeypatch.setattr(distil, "_is_encoder", lambda model: encoder)
    monkeypatch.setattr(distil.Distillation, "_student", lambda *given: (nn.Linear(1, 1), []))
    monkeypatch.setattr(training, "train", note)
    with pytest.raises(Asked) as asked:
        apply(model, tmp_path / "out", params={**PARAMS, "student": student})
    assert max(asked.value.args[0]) == highest


def test_it_says_what_it_cannot_do(model, tmp_path) -> None:
    technique = techniques.get("distil")
    quantised = dataclasses.replace(model, meta={**model.meta, "quantised": True})
    assert technique.applies(quantised, target()).reason == "already quantised"
    eager = dataclasses.replace(model, forms={"module": model.forms["module"]})
    reason = technique.applies(eager, target()).reason
    assert "cannot be exported" in reason and "engines that run PyTorch" in reason
    with pytest.raises(NotApplicable, match="no blocks to leave out"):
        shallower(nn.Sequential(nn.Linear(2, 2)), FORM, {"input": torch.zeros(2, 2)}, 0.5)


FORM = ModuleForm(None, True, ("input",), ("y",), ("output",), "")


def test_a_plan_of_another_module_is_refused(narrow, tmp_path) -> None:
    from strop.models.module_form import instantiate

    other = ModuleSource(payload=cloudpickle.dumps(nn.Linear(2, 2)))
    with pytest.raises(ModelError, match="is not the one that was changed"):
        instantiate(other, narrow.path / "module")
