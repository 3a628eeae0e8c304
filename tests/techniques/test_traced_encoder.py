"""A BERT-like encoder that came as ONNX: its heads, neurons and blocks can go."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from strop import data, models, techniques
from strop.models import graph, module_blocks
from strop.models.model import Model
from strop.models.module_form import open_module
from strop.models.module_plan import apply_plan, drop_op
from strop.models.module_writer import write_module
from strop.models.parity import parity
from strop.models.runner import Runner
from strop.techniques import Context
from strop.techniques.dependency import Dependencies
from strop.techniques.shallow import removable
from strop.testing.targets import target

HEADS, SIZE, INNER, LAYERS = 4, 8, 48, 3


class Layer(nn.Module):
    """Constants, not attributes, say how many heads there are."""

    def __init__(self) -> None:
        super().__init__()
        width = HEADS * SIZE
        self.query, self.key, self.value, self.mix = (nn.Linear(width, width) for _ in range(4))
        self.widen, self.narrow = nn.Linear(width, INNER), nn.Linear(INNER, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        for norm in (self.norm1, self.norm2):  # equal ones would be one constant in the graph
            nn.init.uniform_(norm.weight, 0.5, 1.5)

    def forward(self, x, bias):
        query, key, value = (
            part(x).unflatten(2, (HEADS, SIZE)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) * SIZE**-0.5 + bias
        x = self.norm1(x + self.mix((scores.softmax(-1) @ value).transpose(1, 2).flatten(2)))
        return self.norm2(x + self.narrow(nn.functional.gelu(self.widen(x))))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, HEADS * SIZE)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, ids, mask):
        x, bias = self.words(ids), (1 - mask[:, None, None].float()) * -1e4
        for layer in self.layers:
            x = layer(x, bias)
        return nn.functional.normalize((x * mask[..., None]).sum(1), dim=1)


def sentences(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows)
    mask = (np.arange(6) < rng.integers(2, 7, rows)[:, None]).astype(np.int64)
    return {"ids": rng.integers(0, 20, (rows, 6)), "mask": mask}


@pytest.fixture(scope="module")
def eager(tmp_path_factory: pytest.TempPathFactory) -> Model:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("eager")
    return models.load(Encoder().eval(), workdir=folder, examples=sentences(4))


@pytest.fixture(scope="module")
def converted(eager: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("converted")
    given = models.load(str(eager.forms["onnx"]), workdir=folder / "given")
    (folder / "out").mkdir()
    rows = data.read(sentences(8), given.signature)
    context = Context(folder / "out", target(), {"calibrate": rows})
    return techniques.get("to-module").apply(given, {}, context)


def opened(model: Model):
    form, module = open_module(model)
    return form, module, {n: torch.from_numpy(a) for n, a in sentences(3).items()}


def test_whole_heads_and_neurons_of_every_layer_can_go(converted: Model) -> None:
    form, module, inputs = opened(converted)
    found = {group.root: group for group in Dependencies(module, form, inputs).groups}
    for layer in range(LAYERS):
        heads = found[f"module.layers.{layer}.query"]
        assert [len(unit) for unit in heads.units] == [SIZE] * HEADS
        assert len(found[f"module.layers.{layer}.widen"].units) == INNER


def test_code_that_spells_its_heads_out_keeps_them_and_says_where(eager: Model) -> None:
    form, module, inputs = opened(eager)
    found = Dependencies(module, form, inputs)
    assert [group.root for group in found.groups] == [f"layers.{i}.widen" for i in range(LAYERS)]
    assert Path(__file__).name in found.refused["layers.0.query"]


@pytest.mark.parametrize(("kind", "path"), [("eager", ""), ("converted", "module.")])
def test_whole_layers_can_go_although_they_take_a_mask(
    kind: str, path: str, request: pytest.FixtureRequest
) -> None:
    form, module, inputs = opened(request.getfixturevalue(kind))
    assert removable(module, form, inputs) == [f"{path}layers.{i}" for i in range(LAYERS)]
    smaller = apply_plan(copy.deepcopy(module), [drop_op([f"{path}layers.1"])])
    assert not any(name.startswith(f"{path}layers.1.") for name, _ in smaller.named_parameters())
    torch.manual_seed(0)
    expected = Encoder().eval()
    del expected.layers[1]
    with torch.no_grad():
        (found,) = form.run(smaller, inputs).values()
        assert torch.allclose(found, expected(**inputs), atol=1e-5)


def test_what_is_no_block_stays(converted: Model) -> None:
    module = open_module(converted)[1]
    assert module_blocks.ends(module, "module.layers.0.norm1") is None
    with pytest.raises(KeyError):
        module_blocks.leave_out(module, "layers.7")


def test_what_is_left_is_written_and_exported_again(converted: Model, tmp_path: Path) -> None:
    form, module, inputs = opened(converted)
    ops = [drop_op(["module.layers.1"])]
    module = apply_plan(module, ops)
    groups = Dependencies(module, form, inputs)
    ops.append(groups.remove({group.root: range(len(group.units) // 2) for group in groups.groups}))
    module = apply_plan(module, ops[1:]).eval()
    after = write_module(module, converted, ops, tmp_path / "after", examples=sentences(4))
    assert after.signature == converted.signature
    base = after.path / "module" / "base.onnx"
    assert base.stat().st_ino == (converted.path / "module" / "base.onnx").stat().st_ino
    arrays = sentences(9)
    with torch.no_grad():
        expected = form.run(module, {n: torch.from_numpy(a) for n, a in arrays.items()})
    found = Runner(graph.read(after.forms["onnx"])).run(arrays)
    assert parity({n: t.numpy() for n, t in expected.items()}, found).ok
    again = open_module(Model.open(after.path))[1]
    assert again.get_submodule("module.layers.0.query").out_features == HEADS * SIZE // 2
