"""Narrower copies: all at once where that is sound, else group by group, else a reason."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from strop.errors import NotApplicable
from strop.models.module_form import ModuleForm
from strop.models.module_plan import apply_plan
from strop.techniques.narrow import narrower
from strop.techniques.smaller import without_weights

FORM = ModuleForm(None, True, ("x",), ("y",), ("output",), "")
IMAGES = {"x": torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))}
TOKENS = {"x": torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(0))}


class Groups(nn.Module):
    """Concatenation, depthwise and grouped convolution, squeeze and excitation."""

    inputs = IMAGES

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.depth = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.group = nn.Conv2d(16, 16, 1, groups=2)
        self.squeeze, self.excite = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)
        self.tail = nn.Conv2d(32, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        y = self.group(self.depth(x))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        z = self.norm(self.tail(torch.cat([x, y * gate], 1)))
        return self.head(torch.relu(z).mean((2, 3)))


class Split(nn.Module):
    """Half of the channels is changed, half stays."""

    inputs = IMAGES

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(1, 16, 3), nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = torch.relu(self.stem(x)).chunk(2, 1)
        return self.head(torch.cat([self.inner(changed), kept], 1).mean((2, 3)))


class Tied(nn.Module):
    """Two classifiers with one matrix, on channels of two layers."""

    inputs = IMAGES

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 3), nn.Conv2d(1, 16, 5)
        self.head, self.other = nn.Linear(16, 3), nn.Linear(16, 3)
        self.other.weight = self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        first, second = (torch.relu(part(x)).mean((2, 3)) for part in (self.first, self.second))
        return self.head(first) + self.other(second)


class Heads(nn.Module):
    """Attention that counts its heads and spells out their size, with learned positions."""

    inputs = TOKENS

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.size = 4, 8
        self.embed, self.places = nn.Linear(6, 32), nn.Parameter(torch.randn(1, 5, 32))
        self.query, self.key, self.value, self.mix = (nn.Linear(32, 32) for _ in range(4))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.places
        query, key, value = (
            part(self.norm(x)).unflatten(2, (self.heads, self.size)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = (query @ key.transpose(2, 3) * self.size**-0.5).softmax(-1)
        x = x + self.mix((scores @ value).transpose(1, 2).flatten(2))
        return self.head(x.mean(1))


class Encoder(nn.Module):
    """PyTorch's own encoder layer, whose attention computes its sizes from its width."""

    inputs = TOKENS

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 32), nn.Linear(32, 3)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x)).mean(1))


class Stubborn(nn.Module):
    """Counts on its own width, as hand-written attention does."""

    inputs = IMAGES

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        return self.second(x.reshape(len(x), 4, 4).flatten(1) * torch.ones(16))


class Mostly(Stubborn):
    """As that, with two layers beside it that could be narrower and hold next to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(1, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.after(torch.relu(self.before(x.mean((2, 3)))))


class Scaled(nn.Module):
    """Multiplies by the number of its channels: none can go without changing what others do."""

    inputs = IMAGES

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 16, 3), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(x.mean((2, 3))) * x.shape[1]


def narrowed(kind: type[Any], keep: float) -> tuple[Any, Any, dict[str, Any]]:
    """The module, its narrower copy after a way over JSON, and the operation."""
    torch.manual_seed(0)
    module = kind().eval()
    op = json.loads(json.dumps(narrower(module, FORM, kind.inputs, keep)))
    return module, apply_plan(copy.deepcopy(module), [op]).eval(), op


@pytest.mark.parametrize("keep", [0.5, 0.25])
def test_narrowing_follows_the_dependencies(keep: float) -> None:
    _, smaller, _ = narrowed(Groups, keep)
    assert smaller.stem.out_channels == round(16 * keep)
    assert smaller.tail.in_channels == 2 * smaller.stem.out_channels
    assert smaller.head.out_features == 2
    assert smaller(**IMAGES).shape == (2, 2)


@pytest.mark.parametrize("keep", [0.5, 0.25])
@pytest.mark.parametrize("kind", [Groups, Split, Tied])
def test_what_stays_computes_what_the_whole_does_without_the_rest(kind: Any, keep: float) -> None:
    module, smaller, op = narrowed(kind, keep)
    wanted = without_weights(module, op, FORM, kind.inputs)["y"]
    with torch.no_grad():
        assert torch.allclose(smaller(**kind.inputs), wanted, atol=1e-5)


def test_both_parts_of_a_split_are_narrowed_alike() -> None:
    _, smaller, _ = narrowed(Split, 0.5)
    assert (smaller.stem.out_channels, smaller.inner.in_channels) == (8, 4)


def test_tied_weights_are_narrowed_once_and_stay_tied() -> None:
    _, smaller, _ = narrowed(Tied, 0.5)
    assert smaller.head.weight is smaller.other.weight
    widths = smaller.first.out_channels, smaller.second.out_channels, smaller.head.in_features
    assert widths == (8, 8, 8)


def test_heads_go_whole_and_positions_follow_the_stream() -> None:
    _, smaller, op = narrowed(Heads, 0.5)
    assert (smaller.heads, smaller.size, smaller.query.out_features) == (2, 8, 16)
    assert smaller.places.shape == (1, 5, 16) and smaller.embed.out_features == 16
    (_, kept) = op["keep"]["query.bias"][0]
    assert all(
        first % 8 == 0 and last % 8 == 7 for first, last in zip(kept[::8], kept[7::8], strict=True)
    )


def test_an_attention_layer_of_pytorch_gets_narrower_too() -> None:
    module, smaller, _ = narrowed(Encoder, 0.5)
    assert smaller.layer.self_attn.embed_dim == 16 and smaller.layer.linear1.out_features == 32
    assert smaller(**TOKENS).shape == module(**TOKENS).shape


def test_what_only_training_can_mend_is_narrowed_all_the_same() -> None:
    assert narrowed(Scaled, 0.5)[1].stem.out_channels == 8


def test_a_module_that_counts_on_its_width_is_refused() -> None:
    with pytest.raises(NotApplicable, match="cannot be narrowed: does not run when smaller"):
        narrowed(Stubborn, 0.5)


def test_so_is_one_of_which_next_to_nothing_can_go() -> None:
    with pytest.raises(NotApplicable, match=r"9\d% of its weights would stay \(first: "):
        narrowed(Mostly, 0.5)


def test_a_module_left_in_training_mode_is_narrowed_alike() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2)).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    given = {"x": torch.randn(2, 4)}
    assert narrower(net, FORM, given, 0.5) == narrower(copy.deepcopy(net).eval(), FORM, given, 0.5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
