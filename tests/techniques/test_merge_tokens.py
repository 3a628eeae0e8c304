from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from strop import data, models, techniques
from strop.errors import NotApplicable
from strop.models import graph
from strop.models.model import Model
from strop.models.module_form import open_module
from strop.models.parity import relative_error
from strop.models.runner import Runner
from strop.records import Signature, Step, TensorSpec
from strop.techniques import Context
from strop.techniques.merge_tokens import merge
from strop.testing import graphs
from strop.testing.graphs import Case
from strop.testing.targets import target
from strop.testing.techniques import TechniqueConformance

HEADS, SIZE, INNER, LAYERS, WORDS = 4, 8, 48, 2, 60
WIDTH = HEADS * SIZE

Arrays = dict[str, np.ndarray]


class Layer(nn.Module):
    """Normalised behind each sum, as BERT does, or before each layer, as images' networks do."""

    def __init__(self, before: bool) -> None:
        super().__init__()
        self.before = before
        self.query, self.key, self.value, self.mix = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.widen, self.narrow = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        for norm in (self.norm1, self.norm2):  # equal ones would be one constant in the graph
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.1, 0.1)

    def attend(self, x, bias):
        query, key, value = (
            part(x).unflatten(2, (HEADS, SIZE)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) * SIZE**-0.5
        scores = scores if bias is None else scores + bias
        return self.mix((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))

    def feed(self, x):
        return self.narrow(functional.gelu(self.widen(x)))

    def forward(self, x, bias):
        if self.before:
            x = x + self.attend(self.norm1(x), bias)
            return x + self.feed(self.norm2(x))
        x = self.norm1(x + self.attend(x, bias))
        return self.norm2(x + self.feed(x))


class Encoder(nn.Module):
    """No positions: words that are equal stay equal through all layers."""

    def __init__(
        self, *, pool: str, masked: bool, before: bool = False, words: int = WORDS
    ) -> None:
        super().__init__()
        self.pool, self.masked = pool, masked
        self.words = nn.Embedding(words, WIDTH)
        self.layers = nn.ModuleList(Layer(before) for _ in range(LAYERS))
        self.last = nn.Linear(WIDTH, 5)

    def forward(self, ids, mask):
        x = self.words(ids)
        kept = mask.to(x.dtype)
        bias = ((1 - kept) * -1e4)[:, None, None, :] if self.masked else None
        for layer in self.layers:
            x = layer(x, bias)
        if self.pool == "first":
            x = x[:, 0]
        elif self.pool == "mean":
            x = x.mean(1)
        elif self.pool == "sum":
            x = (x * kept[:, :, None]).sum(1) / kept.sum(1, keepdim=True)
        elif self.pool == "max":
            x = x.amax(1)
        return self.last(x)


class Ordered(Encoder):
    """Its layers see what is before each token, as a decoder's do."""

    def forward(self, ids, mask):
        x, length = self.words(ids), ids.shape[1]
        bias = torch.full((length, length), -1e4).triu(1)[None, None]
        for layer in self.layers:
            x = layer(x, bias)
        return self.last(x.mean(1))


KINDS = {
    "mails": {"pool": "sum", "masked": True},
    "mails, first": {"pool": "first", "masked": True, "before": True},
    "images": {"pool": "mean", "masked": False, "before": True},
    "images, first": {"pool": "first", "masked": False},
}


def given(rows: int, length: int, seed: int = 0, *, padded: bool = False) -> Arrays:
    rng = np.random.default_rng(seed)
    mask = np.ones((rows, length), np.int64)
    if padded:
        mask = (np.arange(length) < rng.integers(2, length + 1, rows)[:, None]).astype(np.int64)
    return {"ids": rng.integers(0, WORDS, (rows, length)), "mask": mask}


def repeated(rows: int, length: int) -> Arrays:
    """Sentences of three words: of each there are some left however many are merged."""
    ids = np.random.default_rng(0).integers(1, 4, (rows, length))
    return {"ids": ids, "mask": np.ones((rows, length), np.int64)}


def load(module: nn.Module, folder: Path) -> Model:
    return models.load(module.eval(), workdir=folder, examples=given(4, 20))


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoders")
    return {name: load(Encoder(**kind), folder / name) for name, kind in KINDS.items()}


def merged(model: Model, percent: int) -> Runner:
    proto = graph.read(model.forms["onnx"])
    assert merge(proto, percent) == LAYERS
    return Runner(proto)


def run(model: Model, arrays: Arrays) -> np.ndarray:
    (found,) = Runner(graph.read(model.forms["onnx"])).run(arrays).values()
    return found


def run_merged(model: Model, percent: int, arrays: Arrays) -> np.ndarray:
    (found,) = merged(model, percent).run(arrays).values()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_equal_tokens_are_merged_without_loss(encoders: dict[str, Model], kind: str) -> None:
    arrays = repeated(6, 40)
    expected = run(encoders[kind], arrays)
    np.testing.assert_allclose(run_merged(encoders[kind], 20, arrays), expected, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_others_are_merged_with_loss(encoders: dict[str, Model], kind: str) -> None:
    arrays = given(6, 40)
    expected = run(encoders[kind], arrays)
    assert np.abs(run_merged(encoders[kind], 20, arrays) - expected).max() > 1e-4


@pytest.mark.parametrize("kind", ["mails", "mails, first"])
def test_padding_goes_first(encoders: dict[str, Model], kind: str) -> None:
    arrays = given(5, 40)
    arrays["mask"][:, 30:] = 0
    # Half of the padding lies at even places; 4 of the 5 there go, and then none is left over.
    expected = run(encoders[kind], arrays)
    found = run_merged(encoders[kind], 5, arrays)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_what_is_merged_is_what_the_paper_merges(encoders: dict[str, Model]) -> None:
    """Against another way to write it, in torch, with sorting and scattering."""
    arrays = given(6, 33, padded=True)
    _, module = open_module(encoders["mails"])
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    with torch.no_grad():
        expected = _by_scattering(module, tensors["ids"], tensors["mask"], 20)
    found = run_merged(encoders["mails"], 20, arrays)
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-5)


def _by_scattering(module: nn.Module, ids: torch.Tensor, mask: torch.Tensor, percent: int):
    rows = []
    for row, kept in zip(ids, mask.float(), strict=True):
        x, mass = module.words(row), kept
        for layer in module.layers:
            bias = mass.clamp(min=1e-30).log()[None, None, None]
            x = layer.norm1(x + layer.attend(x[None], bias)[0])
            x, mass = _matched(x, mass, len(x) * percent // 100)
            x = layer.norm2(x + layer.feed(x))
        rows.append(module.last((x * mass[:, None]).sum(0) / kept.sum()))
    return torch.stack(rows)


def _matched(x: torch.Tensor, mass: torch.Tensor, count: int):
    unit = functional.normalize(x, dim=1)
    likeness = unit[::2] @ unit[1::2].T
    best, to = (likeness - 1e-6 * torch.arange(1, len(x), 2)).max(1)  # of equals the first
    best += 3.3e-6 * torch.arange(0, len(x), 2)  # of equals the last
    best[mass[::2] == 0] = 8.0
    best[0] = -8.0
    going = best.argsort(descending=True, stable=True)[:count].tolist()
    sums, masses = x * mass[:, None], mass.clone()
    for even in going:
        goal = 2 * int(to[even]) + 1
        sums[goal] += sums[2 * even]
        masses[goal] += masses[2 * even]
    left = [even for even in range(0, len(x), 2) if even // 2 not in going]
    left += range(1, len(x), 2)
    return sums[left] / masses[left].clamp(min=1e-30)[:, None], masses[left]


@pytest.mark.parametrize("length", [2, 3, 4, 5, 21])
@pytest.mark.parametrize("kind", KINDS)
def test_any_length_runs(encoders: dict[str, Model], kind: str, length: int) -> None:
    arrays = given(3, length)
    found = run_merged(encoders[kind], 20, arrays)
    assert np.isfinite(found).all()
    if length < 5:  # a fifth of four is none
        np.testing.assert_allclose(found, run(encoders[kind], arrays), atol=2e-5)


def test_an_example_is_the_same_in_any_batch(encoders: dict[str, Model]) -> None:
    arrays, runner = given(7, 30, padded=True), merged(encoders["mails"], 20)
    (together,) = runner.run(arrays).values()
    for row in range(7):
        (alone,) = runner.run({n: a[row : row + 1] for n, a in arrays.items()}).values()
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)


@pytest.mark.parametrize(
    ("blocks", "lengths"), [("all", [40, 32, 32, 26]), ("first", [40, 32, 32, 32])]
)
def test_there_is_less_to_compute(
    encoders: dict[str, Model], blocks: str, lengths: list[int]
) -> None:
    proto = graph.read(encoders["images"].forms["onnx"])
    assert merge(proto, 20, blocks) == (LAYERS if blocks == "all" else 1)
    names = [node.output[0] for node in proto.graph.node if node.op_type == "LayerNormalization"]
    for name in names:
        proto.graph.output.add().name = name
    found = Runner(proto).run(given(2, 40))
    assert [found[name].shape[1] for name in names] == lengths


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (lambda: Encoder(pool="none", masked=True), "an entry for each token"),
        (lambda: Encoder(pool="max", masked=True), "counts each token once"),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU()), "no attention"),
    ],
)
def test_what_needs_every_token_is_refused(tmp_path: Path, module, reason: str) -> None:
    torch.manual_seed(0)
    made = module()
    examples = given(4, 20) if isinstance(made, Encoder) else {"input": np.ones((4, 4), np.float32)}
    model = models.load(made.eval(), workdir=tmp_path, examples=examples)
    answer = techniques.get("merge-tokens").applies(model, target())
    assert not answer
    assert reason in answer.reason
    with pytest.raises(NotApplicable, match=reason):
        merge(graph.read(model.forms["onnx"]), 10)


@pytest.mark.parametrize("kind", ["padding in the mean", "ordered"])
def test_what_attention_needs_is_merged_behind_the_last(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    ordered = Ordered(pool="mean", masked=False)
    model = load(ordered if kind == "ordered" else Encoder(pool="mean", masked=True), tmp_path)
    proto, arrays = graph.read(model.forms["onnx"]), repeated(4, 40)
    if kind != "ordered":  # in a mean that counts padding, padding counts
        arrays["mask"][:, 30:] = 0
    assert merge(proto, 20) == 1
    (found,) = Runner(proto).run(arrays).values()
    if kind != "ordered":  # behind a decoder's attention equal words are not equal
        np.testing.assert_allclose(found, run(model, arrays), atol=2e-5)
    assert np.isfinite(found).all()


def test_it_is_a_module_that_can_be_taught(encoders: dict[str, Model], tmp_path: Path) -> None:
    model = encoders["mails"]
    examples = data.read(given(8, 20), model.signature)
    context = Context(tmp_path, target(), {"calibrate": examples}, 0)
    after = techniques.get("merge-tokens").apply(model, {"percent": 20, "blocks": "all"}, context)
    form, module = open_module(after)
    arrays = given(6, 20, 1, padded=True)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    (found,) = form.run(module, tensors).values()
    np.testing.assert_allclose(found.detach().numpy(), run(after, arrays), atol=1e-4)
    found.square().sum().backward()
    weights = dict(module.named_parameters())
    assert all(p.grad is not None for name, p in weights.items() if "bias" not in name)


def test_what_it_learns_goes_back_into_the_merged_graph(
    encoders: dict[str, Model], tmp_path: Path
) -> None:
    model = encoders["mails"]
    roles = {
        name: data.read(given(1500, 20, seed, padded=True), model.signature)
        for seed, name in enumerate(("calibrate", "train", "search"))
    }
    (tmp_path / "merged").mkdir()
    (tmp_path / "taught").mkdir()
    context = Context(tmp_path / "merged", target(), {"calibrate": roles["calibrate"]})
    after = techniques.get("merge-tokens").apply(model, {"percent": 20, "blocks": "all"}, context)
    distil = techniques.get("distil")
    params = {"student": "same", "transfer": "features", "temperature": 4.0, "labels": 0.3}
    steps = (Step(technique="merge-tokens", version=1, params={"percent": 20, "blocks": "all"}),)
    assert distil.follows(steps, params) and not distil.follows((), params)
    learning = {name: roles[name] for name in ("train", "search")}
    context = Context(
        tmp_path / "taught", target(), learning, teacher=model, seconds=20.0, metric="cosine"
    )
    taught = distil.apply(after, params, context)
    assert taught.meta["exporter"] == "weights" and taught.meta["distil"]["steps"] > 0
    kinds = [
        [node.op_type for node in graph.read(one.forms["onnx"]).graph.node]
        for one in (after, taught)
    ]
    assert kinds[0] == kinds[1]
    facts = taught.meta["distil"]
    assert facts["best"] > facts["before"]
    arrays = given(64, 20, 3, padded=True)
    form, module = open_module(taught)
    with torch.no_grad():
        (expected,) = form.run(module, {n: torch.from_numpy(a) for n, a in arrays.items()}).values()
    found = run(taught, arrays)
    assert (
        relative_error(expected.numpy(), found) < 1e-4 < relative_error(run(after, arrays), found)
    )


def _case() -> Case:
    torch.manual_seed(0)
    # The suite tries ids that are a thousand times as large.
    module = Encoder(pool="sum", masked=False, words=1000 * WORDS).eval()

    def answer(arrays: Arrays) -> Arrays:
        with torch.no_grad():
            found = module(*(torch.from_numpy(arrays[name]) for name in ("ids", "mask")))
        return {"output": found.numpy()}

    ids, mask = (TensorSpec(name=n, dtype="int64", shape=("batch", 20)) for n in ("ids", "mask"))
    output = TensorSpec(name="output", dtype="float32", shape=("batch", 5))
    inputs = lambda rows, seed: given(rows, 20, seed)  # noqa: E731
    case = Case("encoder", Signature(inputs=(ids, mask), outputs=(output,)), answer, inputs, (), {})
    object.__setattr__(case, "module", module)
    return case


class TestConformance(TechniqueConformance):
    technique = "merge-tokens"
    case = _case()
    tolerance = 0.8  # of random weights: they lose far more than what was trained

    def write(self, case: Case, folder: Path) -> Model:
        return models.load(case.module, workdir=folder, examples=case.inputs(4, 0))

    def write_unsuitable(self, folder: Path) -> Model:
        return graphs.perceptron().write(folder)
