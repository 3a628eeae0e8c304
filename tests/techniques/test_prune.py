"""Structured pruning: what goes together, what goes first, and what a fresh process rebuilds."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from strop import engines
from strop.data import Dataset
from strop.errors import NotApplicable
from strop.models.model import Model
from strop.models.module_form import ModuleForm, open_module
from strop.models.module_plan import apply_plan
from strop.records import SessionSpec
from strop.techniques import Context, prune
from strop.techniques.dependency import Dependencies
from strop.techniques.importance import counts, unit_scores
from strop.techniques.prune import Pruning
from strop.testing.targets import target

from . import small_modules as small

FORM = ModuleForm(None, True, ("x",), ("output",), ("output",), "")
IMAGES = {"x": torch.from_numpy(small.images(3))}
SEQUENCES = {"x": torch.from_numpy(small.sequences(3))}


def made(source: str) -> nn.Module:
    """A module from source, with statistics and scales that tell channels apart."""
    space: dict[str, Any] = {"__name__": "made"}
    exec(small.HEADER + source, space)
    torch.manual_seed(0)
    module = space["Net"]().eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            if part.affine:
                part.weight.data.uniform_(0.5, 1.5)
                part.bias.data.normal_()
    return module


def halved(module: nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[Dependencies, nn.Module]:
    """Every second unit of every group gone."""
    found = Dependencies(module, FORM, inputs)
    op = found.remove({g.root: range(0, len(g.units) - 1, 2) for g in found.groups})
    return found, apply_plan(copy.deepcopy(module), [op]).eval()


def silenced(module: nn.Module, op: dict[str, Any]) -> nn.Module:
    """The whole module with the weights that a pruning took out set to zero."""
    whole = copy.deepcopy(module)
    tensors = {
        **dict(whole.named_parameters(remove_duplicate=False)),
        **dict(whole.named_buffers()),
    }
    with torch.no_grad():
        for name, kept in op["keep"].items():
            for dim, indices in kept:
                gone = [i for i in range(tensors[name].shape[dim]) if i not in set(indices)]
                tensors[name].index_fill_(dim, torch.tensor(gone), 0)
    return whole


CASES = {
    "residual": """
class Net(nn.Module):
    def __init__(s):
        super().__init__()
        s.a, s.b, s.c = (nn.Conv2d(i, 8, 3, padding=1) for i in (1, 8, 8))
        s.n, s.h = nn.BatchNorm2d(8), nn.Linear(8, 3)
    def forward(s, x):
        x = torch.relu(s.a(x))
        x = torch.relu(x + s.n(s.c(torch.relu(s.b(x)))))
        return s.h(x.mean((2, 3)))
""",
    "concatenation": """
class Net(nn.Module):
    def __init__(s):
        super().__init__()
        s.a, s.b, s.c = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 6, 3), nn.Conv2d(10, 4, 1)
        s.n, s.h = nn.BatchNorm2d(10), nn.Linear(14, 3)
    def forward(s, x):
        y = s.n(torch.cat([s.a(x), s.b(x)], 1))
        return s.h(torch.cat([torch.relu(y), s.c(y)], 1).mean((2, 3)))
""",
    "split": """
class Net(nn.Module):
    def __init__(s):
        super().__init__()
        s.a, s.b = nn.Conv2d(1, 16, 3), nn.Conv2d(8, 8, 1)
        s.h = nn.Linear(16, 3)
    def forward(s, x):
        kept, changed = torch.relu(s.a(x)).chunk(2, 1)
        return s.h(torch.cat([s.b(changed), kept], 1).mean((2, 3)))
""",
    "grouped convolution": """
class Net(nn.Module):
    def __init__(s):
        super().__init__()
        s.a, s.b = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 32, 3, groups=4)
        s.h = nn.Linear(32, 3)
    def forward(s, x):
        return s.h(torch.relu(s.b(torch.relu(s.a(x)))).mean((2, 3)))
""",
    "depthwise convolution": """
class Net(nn.Module):
    def __init__(s):
        super().__init__()
        s.a, s.b = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 3, groups=16)
        s.n, s.h = nn.BatchNorm2d(16, affine=False), nn.Linear(16, 3)
    def forward(s, x):
        return s.h(torch.relu(s.n(s.b(torch.relu(s.a(x))))).mean((2, 3)))
""",
    "squeeze-excite": """
class Net(nn.Module):
    def __init__(s):
        super().__init__()
        s.a, s.d, s.u = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        s.h = nn.Linear(16, 3)
    def forward(s, x):
        x = torch.relu(s.a(x))
        x = x * torch.sigmoid(s.u(torch.relu(s.d(x.mean((2, 3), keepdim=True)))))
        return s.h(x.mean((2, 3)))
""",
    "attention pooling": """
class Net(nn.Module):
    def __init__(s):
        super().__init__()
        s.a, s.q, s.v, s.h = nn.Conv2d(1, 8, 3), nn.Linear(8, 1), nn.Linear(8, 8), nn.Linear(8, 3)
    def forward(s, x):
        x = torch.relu(s.a(x)).flatten(2).transpose(1, 2)
        return s.h((s.q(x).softmax(1) * s.v(x)).sum(1))
""",
    "flattened image": """
class Net(nn.Module):
    def __init__(s):
        super().__init__()
        s.a, s.h = nn.Conv2d(1, 8, 3), nn.Linear(8 * 64, 3)
    def forward(s, x):
        return s.h(torch.relu(s.a(x)).flatten(1))
""",
    "tied weights": """
class Net(nn.Module):
    def __init__(s):
        super().__init__()
        s.a, s.b = nn.Conv2d(1, 8, 3), nn.Conv2d(1, 8, 5)
        s.g, s.h = nn.Linear(8, 3), nn.Linear(8, 3)
        s.g.weight = s.h.weight
    def forward(s, x):
        return s.g(torch.relu(s.a(x)).mean((2, 3))) + s.h(torch.relu(s.b(x)).mean((2, 3)))
""",
    "parameter outside of layers": """
class Net(nn.Module):
    def __init__(s):
        super().__init__()
        s.a, s.h = nn.Conv2d(1, 8, 3), nn.Linear(8, 3)
        s.places, s.scale = nn.Parameter(torch.randn(1, 64, 8)), nn.Parameter(torch.ones(1))
    def forward(s, x):
        x = torch.relu(s.a(x)).flatten(2).transpose(1, 2) * s.scale + s.places
        return s.h(x.square().mean(1))
""",
    "the same layer twice": """
class Net(nn.Module):
    def __init__(s):
        super().__init__()
        s.a, s.b, s.h = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 3)
    def forward(s, x):
        x = torch.relu(s.b(torch.relu(s.a(x))))
        return s.h(torch.relu(s.b(x)).mean((2, 3)))
""",
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_what_is_left_computes_as_if_the_rest_had_no_weights(name: str) -> None:
    module = made(CASES[name])
    found = Dependencies(module, FORM, IMAGES)
    assert found.groups, found.refused
    op = found.remove({g.root: range(0, len(g.units) - 1, 2) for g in found.groups})
    smaller = apply_plan(copy.deepcopy(module), [op])
    with torch.no_grad():
        wanted = silenced(module, op)(**IMAGES)
        assert torch.allclose(smaller(**IMAGES), wanted, atol=1e-5)
    sizes = [sum(p.numel() for p in one.parameters()) for one in (module, smaller)]
    assert sizes[1] < 0.75 * sizes[0]


def test_parts_of_a_split_stay_even() -> None:
    group = Dependencies(made(CASES["split"]), FORM, IMAGES).groups[0]
    assert group.units[0] == (0, 8)


def test_tied_weights_stay_tied() -> None:
    module = made(CASES["tied weights"])
    _, smaller = halved(module, IMAGES)
    assert smaller.g.weight is smaller.h.weight
    assert smaller.a.out_channels == smaller.b.out_channels == smaller.g.in_features


def test_heads_go_whole_and_are_counted() -> None:
    module = made(small.ENCODER.removeprefix(small.HEADER))
    found = Dependencies(module, FORM, SEQUENCES)
    heads = next(group for group in found.groups if group.heads)
    assert heads.heads == ("heads",) and [len(unit) for unit in heads.units] == [8] * 4
    op = found.remove({heads.root: [1, 3]})
    smaller = apply_plan(copy.deepcopy(module), [op])
    assert (smaller.heads, smaller.query.out_features, smaller.mix.in_features) == (2, 16, 16)
    with torch.no_grad():
        assert torch.allclose(smaller(**SEQUENCES), silenced(module, op)(**SEQUENCES), atol=1e-5)


def test_neurons_of_a_feed_forward_layer_go() -> None:
    module = made(small.ENCODER.removeprefix(small.HEADER))
    assert "widen" in {group.root for group in Dependencies(module, FORM, SEQUENCES).groups}


def test_widths_that_the_code_spells_out_stay_and_say_why() -> None:
    module = made("""
class Net(nn.Module):
    def __init__(s):
        super().__init__()
        s.a, s.h = nn.Conv2d(1, 7, 3), nn.Linear(7, 3)
    def forward(s, x):
        return s.h(s.a(x).reshape(-1, 7, 64).mean(2))
""")
    found = Dependencies(module, FORM, IMAGES)
    assert "a" in found.refused and "does not run when smaller" in found.refused["a"]


def test_arithmetic_on_the_number_of_channels_is_found_out() -> None:
    module = made("""
class Net(nn.Module):
    def __init__(s):
        super().__init__()
        s.a, s.h = nn.Conv2d(1, 7, 3), nn.Linear(7, 3)
    def forward(s, x):
        x = s.a(x)
        return s.h((x / x.square().sum(1, keepdim=True).sqrt()).mean((2, 3)) * x.shape[1])
""")
    found = Dependencies(module, FORM, IMAGES)
    assert not found.groups and "changes what others do" in found.refused["a"]


def test_channels_of_the_output_stay() -> None:
    found = Dependencies(made(CASES["residual"]), FORM, IMAGES)
    assert "channels of the output" in found.refused["h"]


def test_code_that_cannot_be_traced_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "odd.py"
    file.write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        raise ValueError('no')\n"
    )
    spec = importlib.util.spec_from_file_location("odd", file)
    assert spec and spec.loader
    odd = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(odd)
    with pytest.raises(NotApplicable, match=r"odd\.py:4\); qat, and all that trains nothing"):
        Dependencies(odd.Net(), FORM, IMAGES)


@pytest.mark.parametrize("criterion", ["magnitude", "bn", "taylor"])
def test_a_dead_channel_matters_least(criterion: Any) -> None:
    module = made(CASES["residual"])
    with torch.no_grad():
        for tensor in (module.b.weight, module.b.bias, module.n.weight, module.n.bias):
            tensor[5] = 0
    groups = Dependencies(module, FORM, IMAGES).groups
    inner = next(group for group in groups if group.root == "b")
    batches = [(IMAGES, torch.tensor([0, 1, 2]))]
    scores = unit_scores(module, FORM, groups, criterion, batches)
    if criterion != "bn":  # the inner layer has no normalisation to look at
        assert int(scores[inner.root].argmin()) == 5
    assert all(float(value.mean()) == pytest.approx(1) for value in scores.values())


def test_counts_are_multiples_of_what_the_engine_rewards() -> None:
    rng = np.random.default_rng(0)
    scores = {"a": rng.random(64), "b": rng.random(96), "heads": rng.random(8)}
    sizes = {"a": 1, "b": 1, "heads": 16}
    kept = counts(scores, sizes, {n: len(v) for n, v in scores.items()}, 0.4, 16)
    assert kept["a"] % 16 == kept["b"] % 16 == 0 and kept["a"] < 64
    assert 1 <= kept["heads"] <= 8


def test_a_global_ranking_takes_from_what_matters_least() -> None:
    scores = {"a": np.linspace(0.0, 0.4, 32), "b": np.linspace(1.0, 2.0, 32)}
    kept = counts(scores, {"a": 1, "b": 1}, {"a": 32, "b": 32}, 0.4, 1)
    assert kept["b"] == 32 and kept["a"] == 32 - round(0.4 * 64)


def apply(model: Model, rows: Any, workdir: Path, **params: Any) -> Model:
    workdir.mkdir()
    technique = Pruning()
    chosen = {**technique.space(model, target()).default, "rounds": 1, **params}
    context = Context(workdir, target(), {"train": rows}, teacher=model)
    return technique.apply(model, chosen, context)


@pytest.fixture(scope="module")
def rewarded() -> Iterator[None]:
    """Engines that reward every eighth width, whatever this machine is doing; short training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prune, "EPOCHS", 4.0)
        patch.setattr(prune, "rewarded_step", lambda target, folder: 8)
        patch.setattr(prune, "speedup", lambda *given: 2.0)
        yield


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Dataset]:
    return small.write(small.RESIDUAL, small.images(), tmp_path_factory.mktemp("residual"))


@pytest.fixture(scope="module")
def pruned(
    residual: tuple[Model, Dataset], rewarded: None, tmp_path_factory: pytest.TempPathFactory
) -> Model:
    return apply(*residual, tmp_path_factory.mktemp("pruned") / "out", rounds=2)


def test_a_fresh_process_rebuilds_the_pruned_module(
    residual: tuple[Model, Dataset], pruned: Model, tmp_path: Path
) -> None:
    model, after = residual[0], pruned
    assert set(after.forms) == {"module", "onnx"} and after.signature == model.signature
    _, module = open_module(after)
    x = torch.from_numpy(small.images(5, seed=3))
    code = (
        "import sys, numpy, torch\n"
        "from pathlib import Path\n"
        "from strop.models.model import Model\n"
        "from strop.models.module_form import open_module\n"
        "form, module = open_module(Model.open(Path(sys.argv[1])))\n"
        "assert 'torch_pruning' not in sys.modules\n"
        "x = torch.from_numpy(numpy.load(sys.argv[2]))\n"
        "with torch.no_grad(): numpy.save(sys.argv[3], module(x).numpy())\n"
    )
    np.save(tmp_path / "x.npy", x.numpy())
    arguments = [str(after.path), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=240)
    with torch.no_grad():
        assert np.array_equal(np.load(tmp_path / "y.npy"), module(x).numpy())
    plan = json.loads(after.forms["module"].read_text())["plan"]
    assert [op["op"] for op in plan] == ["prune", "prune"]
    artifact = engines.get("onnxruntime").build(after, {}, tmp_path)
    spec = SessionSpec(engine="onnxruntime", artifact=str(artifact), signature=after.signature)
    session = engines.open_session(spec)
    with torch.no_grad():
        assert np.allclose(
            next(iter(session.run({"x": x.numpy()}).values())), module(x).numpy(), atol=1e-4
        )
    session.close()


@pytest.mark.usefixtures("rewarded")
def test_whole_blocks_go(residual: tuple[Model, Dataset], tmp_path: Path) -> None:
    after = apply(*residual, tmp_path / "out", ratio=0.0, blocks=0.5)
    _, module = open_module(after)
    kinds = [type(block).__name__ for block in module.blocks]
    assert sorted(kinds) == ["Block", "Skip"]
    assert after.meta["prune"]["dropped"] == [f"blocks.{kinds.index('Skip')}"]


def test_what_the_engine_does_not_reward_is_not_trained(
    residual: tuple[Model, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "rewarded_step", lambda target, folder: 8)
    monkeypatch.setattr(prune, "speedup", lambda *given: 1.01)
    monkeypatch.setattr(prune._Pruner, "_recover", lambda *given: pytest.fail("it was trained"))
    with pytest.raises(NotApplicable, match=r"does not reward it: 50% .* 1\.01 times"):
        apply(*residual, tmp_path / "out")


def test_a_model_that_insists_on_its_batch_is_timed_with_it(
    residual: tuple[Model, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = residual
    inputs = tuple(
        spec.model_copy(update={"shape": (6, *spec.shape[1:])}) for spec in model.signature.inputs
    )
    fixed = dataclasses.replace(
        model, signature=model.signature.model_copy(update={"inputs": inputs})
    )
    timed: list[int] = []

    def speedup(before: Model, after: Model, given: Any, *_: object) -> float:
        timed.append(len(given["x"]))
        return 1.0

    monkeypatch.setattr(prune, "rewarded_step", lambda target, folder: 8)
    monkeypatch.setattr(prune, "speedup", speedup)
    with pytest.raises(NotApplicable, match="does not reward it"):
        apply(fixed, rows, tmp_path / "out")
    assert timed == [6]


@pytest.mark.usefixtures("rewarded")
def test_statistics_are_those_of_the_smaller_network(
    residual: tuple[Model, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[nn.Module] = []
    monkeypatch.setattr(
        prune._Pruner, "_recover", lambda self, *given: seen.append(copy.deepcopy(self._module))
    )
    model, rows = residual
    apply(model, rows, tmp_path / "out")
    block = seen[0].blocks[0]
    x = torch.from_numpy(rows.inputs()["x"])
    with torch.no_grad():
        given = block.first(torch.relu(seen[0].stem(x)))
    assert torch.allclose(block.norm.running_mean, given.mean((0, 2, 3)), atol=1e-4)


@pytest.mark.usefixtures("rewarded")
def test_equal_seeds_give_equal_models(
    residual: tuple[Model, Dataset], pruned: Model, tmp_path: Path
) -> None:
    assert apply(*residual, tmp_path / "again", rounds=2).digest == pruned.digest
