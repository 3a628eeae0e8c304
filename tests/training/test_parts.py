"""Loader, losses, teacher's outputs, transfer and schedule, each on its own."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from strop.errors import NotApplicable
from strop.models.module_blocks import leave_out
from strop.training.loader import Loader, hold_out, order, view
from strop.training.losses import IGNORED, kind_of, labels_for, output_loss, quality_of
from strop.training.memory import checkpoint_blocks
from strop.training.schedule import choose_peak
from strop.training.teacher import TeacherOutputs
from strop.training.transfer import Taps, match_layers, transfer_loss

from .conftest import arrays, dataset

CPU = torch.device("cpu")


def test_an_epoch_holds_every_row_once_and_another_order_each_time() -> None:
    rows = np.arange(100, 170)
    first = list(order(rows, 0, 5, 16))
    assert [len(batch) for batch in first] == [16] * 4
    assert len(np.unique(np.concatenate(first))) == 64
    assert set(np.concatenate(first)) <= set(rows)
    again, second = list(order(rows, 0, 5, 16)), list(order(rows, 1, 5, 16))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any((a != b).any() for a, b in zip(first, second, strict=True))


def test_groups_are_held_out_whole() -> None:
    given = arrays(400)
    given["group"] = np.arange(400) // 8
    trained, judged = hold_out(dataset(given), 0.2, 3, 1000)
    groups = given["group"]
    assert not set(groups[trained]) & set(groups[judged])
    assert len(trained) + len(judged) == 400
    assert 80 <= len(judged) <= 88


def test_one_group_is_judged_on_what_it_is_trained_on() -> None:
    given = arrays(50)
    given["group"] = np.zeros(50, int)
    trained, judged = hold_out(dataset(given), 0.2, 3, 20)
    assert len(trained) == 50
    assert len(judged) == 20


def test_views_are_seeded_and_leave_other_inputs_alone() -> None:
    images = torch.arange(2 * 64.0).reshape(2, 1, 8, 8)
    one, again = (view(images, ("flip", "crop"), np.random.default_rng(1)) for _ in range(2))
    assert torch.equal(one, again)
    assert one.shape == images.shape
    ids = torch.arange(6).reshape(2, 3)
    assert view(ids, ("flip",), np.random.default_rng(1)) is ids
    mirrored = view(images, ("flip",), np.random.default_rng(2))
    for before, after in zip(images, mirrored, strict=True):
        assert torch.equal(before, after) or torch.equal(before.flip(2), after)


def test_an_unknown_view_is_refused() -> None:
    with pytest.raises(NotApplicable, match="rotate"):
        Loader(dataset(arrays(8)), CPU, augment=("rotate",))


@pytest.mark.parametrize(
    ("output", "task", "kind"),
    [
        (torch.randn(5, 3), "auto", "classes"),
        (torch.randn(5, 3).softmax(1), "auto", "probabilities"),
        (functional.normalize(torch.randn(5, 3)), "auto", "cosine"),
        (torch.randn(5, 3), "cosine", "cosine"),
        (torch.randn(5, 3), "values", "values"),
        (torch.randn(5, 1), "auto", "values"),
        (torch.randn(5), "auto", "values"),
        (torch.randn(5, 4, 3), "auto", "values"),
        (torch.randn(5, 4, 3), "classes", "classes"),
        (torch.ones(5, dtype=torch.int64), "auto", "values"),
    ],
)
def test_what_an_output_holds(output, task, kind) -> None:
    assert kind_of(output, task) == kind


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 2, 2), (6, 3, 4)])
def test_soft_targets_are_the_textbook_formula(shape) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(shape), torch.randn(shape)
    axis = -1 if len(shape) == 3 else 1
    p, q = (x.movedim(axis, -1).reshape(-1, 4).div(3).softmax(1) for x in (teacher, student))
    wanted = 9 * (p * (p / q).log()).sum(1).mean()
    found = output_loss("classes", student, teacher, None, temperature=3, label_weight=0.5)
    torch.testing.assert_close(found, wanted)


def test_labels_take_their_share() -> None:
    torch.manual_seed(0)
    student, teacher, labels = torch.randn(6, 4), torch.randn(6, 4), torch.arange(6) % 4
    args = {"temperature": 2.0, "label_weight": 0.25}
    both = output_loss("classes", student, teacher, labels, **args)
    soft = output_loss("classes", student, teacher, None, **args)
    hard = functional.cross_entropy(student, labels)
    torch.testing.assert_close(both, 0.75 * soft + 0.25 * hard)


def test_examples_without_a_label_have_the_teacher_alone_and_are_not_judged() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    none = torch.full((6,), IGNORED)
    args = {"temperature": 2.0, "label_weight": 0.25}
    soft = output_loss("classes", student, teacher, None, **args)
    torch.testing.assert_close(output_loss("classes", student, teacher, none, **args), 0.75 * soft)
    some = torch.tensor([1, IGNORED, 2, IGNORED, IGNORED, 0])
    hard = functional.cross_entropy(student[some >= 0], some[some >= 0])
    found = output_loss("classes", student, teacher, some, **args)
    torch.testing.assert_close(found, 0.75 * soft + 0.25 * hard)
    judged = quality_of("classes", student, None, some)
    assert torch.equal(judged.isnan(), some == IGNORED)
    tokens = torch.tensor([[0, IGNORED], [1, 0]])
    scores = functional.one_hot(torch.tensor([[0, 1], [1, 1]]), 3).float()
    assert quality_of("classes", scores, None, tokens).tolist() == [1.0, 0.5]


@pytest.mark.parametrize("kind", ["classes", "cosine", "values", "probabilities"])
def test_the_teacher_itself_has_no_loss_and_full_quality(kind) -> None:
    output = torch.randn(6, 4)
    if kind == "probabilities":
        output = output.softmax(1)
    loss = output_loss(kind, output, output, None, temperature=4, label_weight=0)
    assert abs(float(loss)) < 1e-5
    assert torch.allclose(quality_of(kind, output, output, None), torch.ones(6), atol=1e-5)


def test_probabilities_are_softened_like_their_logits() -> None:
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    args = {"temperature": 4.0, "label_weight": 0.0}
    logits = output_loss("classes", student, teacher, None, **args)
    shares = output_loss("probabilities", student.softmax(1), teacher.softmax(1), None, **args)
    torch.testing.assert_close(logits, shares, rtol=1e-3, atol=1e-4)


def test_targets_that_are_no_class_numbers_are_no_labels() -> None:
    output = torch.randn(6, 4)
    assert labels_for("classes", output, torch.randn(6)) is None
    assert labels_for("classes", output, torch.ones(6, 2, dtype=torch.int64)) is None
    assert labels_for("values", output, torch.ones(6, dtype=torch.int64)) is None
    column = torch.ones(6, 1, dtype=torch.int32)
    assert labels_for("classes", output, column).shape == (6,)


class Counting:
    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, inputs):
        self.rows += len(inputs["x"])
        return {"y": inputs["x"] * 2}


def ask(cache: TeacherOutputs, rows: list[int]) -> torch.Tensor:
    inputs = {"x": torch.tensor(rows, dtype=torch.float32)[:, None]}
    return cache(np.array(rows), inputs)["y"]


def test_the_teacher_is_asked_once_and_remembered_over_runs(tmp_path) -> None:
    run = Counting()
    cache = TeacherOutputs(tmp_path / "t", 10, 1 << 20, run)
    assert ask(cache, [3, 1]).flatten().tolist() == [6, 2]
    assert ask(cache, [1, 3]).flatten().tolist() == [2, 6]
    assert run.rows == 2
    cache.flush()
    again = TeacherOutputs(tmp_path / "t", 10, 1 << 20, run)
    assert ask(again, [3]).flatten().tolist() == [6]
    assert run.rows == 2
    assert ask(again, [3, 4]).flatten().tolist() == [6, 8]
    assert run.rows == 4


def test_beyond_the_bound_nothing_is_kept(tmp_path) -> None:
    run = Counting()
    cache = TeacherOutputs(tmp_path / "t", 1000, 4 * 100, run)
    for _ in range(2):
        assert ask(cache, [99, 500]).flatten().tolist() == [198, 1000]
    assert ask(cache, [99]).flatten().tolist() == [198]
    assert run.rows == 4
    assert sum(f.stat().st_size for f in (tmp_path / "t").glob("0.npy")) < 1000


def test_a_disk_that_is_nearly_full_is_left_its_room(tmp_path, monkeypatch) -> None:
    free = SimpleNamespace(free=4 * 4 * 100)  # a quarter holds a hundred rows
    monkeypatch.setattr("strop.training.teacher.shutil.disk_usage", lambda folder: free)
    run = Counting()
    cache = TeacherOutputs(tmp_path / "t", 1000, 1 << 20, run)
    for _ in range(2):
        assert ask(cache, [99]).item() == 198 and ask(cache, [100]).item() == 200
    assert run.rows == 3
    assert (tmp_path / "t" / "0.npy").stat().st_size < 1000


def test_outputs_of_other_data_are_not_taken(tmp_path) -> None:
    run = Counting()
    cache = TeacherOutputs(tmp_path / "t", 10, 1 << 20, run)
    ask(cache, [1])
    cache.flush()
    ask(TeacherOutputs(tmp_path / "t", 11, 1 << 20, run), [1])
    assert run.rows == 2


def convolutional(width: int, depth: int = 2) -> nn.Module:
    parts: list[nn.Module] = []
    channels = 1
    for stage in range(2):
        for _ in range(depth):
            parts += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        if stage == 0:
            parts.append(nn.MaxPool2d(2))
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))


def test_layers_are_matched_by_what_they_give() -> None:
    teacher, student = convolutional(16, 3), convolutional(4, 2)
    x = torch.randn(2, 1, 8, 8)
    pairs = match_layers(teacher, student, lambda module: module(x))
    assert len(pairs) == 4
    for one, other in pairs:
        taps = Taps(teacher, [one]), Taps(student, [other])
        teacher(x), student(x)
        a, b = taps[0].outputs[one], taps[1].outputs[other]
        assert (a.shape[0], *a.shape[2:]) == (b.shape[0], *b.shape[2:])
        for tap in taps:
            tap.close()


def test_tokens_are_matched_by_their_depth() -> None:
    def net(width: int, layers: int) -> nn.Module:
        body = [nn.TransformerEncoderLayer(width, 2, 8, 0.0, batch_first=True)] * 1
        for _ in range(layers - 1):
            body.append(nn.TransformerEncoderLayer(width, 2, 8, 0.0, batch_first=True))
        return nn.Sequential(nn.Linear(6, width), *body)

    x = torch.randn(2, 5, 6)
    pairs = match_layers(net(8, 4).eval(), net(4, 2).eval(), lambda module: module(x))
    assert pairs
    assert all(one and other for one, other in pairs)


def test_what_stays_of_a_shallower_copy_gives_what_was_left_out_behind_it() -> None:
    layers = [nn.TransformerEncoderLayer(8, 2, 8, 0.0, batch_first=True) for _ in range(6)]
    teacher = nn.Sequential(nn.Linear(6, 8), nn.Sequential(*layers)).eval()
    student = copy.deepcopy(teacher)
    for name in ("1.1", "1.3", "1.4"):
        student = leave_out(student, name)
    x = torch.randn(2, 5, 6)
    pairs = match_layers(teacher, student, lambda module: module(x))
    assert pairs == [(name, name) for name in ("1.1", "1.4", "1.5")]


@pytest.mark.parametrize("kind", ["attention", "features"])
def test_transfer_is_nothing_between_equals_and_takes_any_width(kind) -> None:
    features = torch.randn(4, 8, 5, 5)
    assert float(transfer_loss(kind, features, features)) == pytest.approx(0, abs=1e-6)
    other = torch.randn(4, 3, 5, 5, requires_grad=True)
    loss = transfer_loss(kind, features, other)
    loss.backward()
    assert 0 < loss.item() < 10
    assert other.grad is not None and float(other.grad.abs().sum()) > 0


def test_every_rate_that_diverges_gives_none() -> None:
    assert choose_peak(lambda rate: math.nan) is None
    assert choose_peak({1.0: 5.0, 2.0: 1.0, 3.0: 4.0}.__getitem__, (1.0, 2.0, 3.0)) == 2.0


def test_losses_below_zero_are_compared_like_any() -> None:
    assert choose_peak({1.0: -2.0, 2.0: -1.95, 3.0: -1.0}.__getitem__, (1.0, 2.0, 3.0)) == 2.0


def test_checkpointed_blocks_give_the_same_gradients() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)) for _ in range(3))
    )
    x = torch.randn(5, 4)

    def gradients() -> list[torch.Tensor]:
        net.zero_grad()
        net(x).square().sum().backward()
        return [p.grad.clone() for p in net.parameters()]

    plain = gradients()
    undo = checkpoint_blocks(net)
    assert undo is not None
    again = gradients()
    undo()
    assert all("forward" not in vars(part) for part in net.modules())
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other)
    assert checkpoint_blocks(nn.Linear(2, 2)) is None
