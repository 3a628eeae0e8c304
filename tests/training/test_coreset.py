"""What `strop.training.coreset` chooses, beside a random choice of the same size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from strop import data
from strop.data import Dataset
from strop.errors import InputError
from strop.models.module_form import ModuleForm
from strop.records import Signature, TensorSpec
from strop.training.coreset import choose, coreset, hardness, hardness_of
from strop.training.losses import IGNORED

FORM = ModuleForm(None, True, ("x",), ("output",), ("output",), "")


class Boundary(nn.Module):
    """Knows the truth: which side of a tilted line a point is on, less surely near it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = 4 * (x[:, 0] + 0.5 * x[:, 1])
        return torch.stack([-score, score], 1)


def points(easy: int, hard: int, seed: int) -> np.ndarray:
    """Two far clusters that any of many lines separates, and points near the true line."""
    rng = np.random.default_rng(seed)
    side = np.where(rng.random(easy) < 0.5, -4.0, 4.0)
    far = np.stack([side, rng.normal(0, 0.3, easy)], 1)
    along = rng.uniform(-3, 3, hard)
    near = np.stack([-0.5 * along + rng.normal(0, 0.4, hard), along], 1)
    return np.concatenate([far, near]).astype(np.float32)


def dataset(x: np.ndarray, target: np.ndarray | None = None) -> Dataset:
    spec = TensorSpec(name="x", dtype="float32", shape=("n", x.shape[1]))
    arrays = {"x": x} if target is None else {"x": x, "target": target}
    return data.read(arrays, Signature(inputs=(spec,), outputs=()))


def accuracy_after(train: Dataset, test: np.ndarray) -> float:
    """Of a linear classifier trained on the teacher's decisions on `train`."""
    x = torch.from_numpy(train.inputs()["x"])
    teacher, student = Boundary(), nn.Linear(2, 2)
    nn.init.zeros_(student.weight)
    nn.init.zeros_(student.bias)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(student(x), teacher(x).argmax(1)).backward()
        optimizer.step()
    found, wanted = student(torch.from_numpy(test)), teacher(torch.from_numpy(test))
    return float((found.argmax(1) == wanted.argmax(1)).float().mean())


def test_it_teaches_more_than_a_random_choice_of_the_same_size() -> None:
    test = points(0, 500, seed=99)
    chosen, drawn = [], []
    for seed in range(5):
        every = dataset(points(980, 20, seed))
        chosen.append(accuracy_after(coreset(every, FORM, Boundary(), 40, seed=seed), test))
        rows = np.random.default_rng(seed).permutation(len(every))[:40]
        drawn.append(accuracy_after(every.subset(rows), test))
    assert np.mean(chosen) > np.mean(drawn) + 0.03


def test_the_choice_has_the_size_asked_for_and_no_row_twice() -> None:
    scores = np.random.default_rng(0).exponential(size=997)
    for count in (1, 10, 333, 996, 997):
        rows = choose(scores, count)
        assert len(rows) == len(np.unique(rows)) == count


def test_the_hardest_are_left_out_while_there_are_others() -> None:
    scores = np.concatenate([np.linspace(0, 1, 95), np.full(5, 9.0)])
    assert choose(scores, 50).max() < 95
    assert len(choose(scores, 100)) == 100


def test_equal_seeds_choose_equal_rows() -> None:
    scores = np.zeros(100)
    assert choose(scores, 10, seed=4).tolist() == choose(scores, 10, seed=4).tolist()
    assert choose(scores, 10, seed=4).tolist() != choose(scores, 10, seed=5).tolist()


def test_wrong_labels_are_the_hardest_examples() -> None:
    x = points(200, 0, seed=1)
    truth = (x[:, 0] > 0).astype(np.int64)
    truth[:3] = 1 - truth[:3]
    scores = hardness(dataset(x, truth), FORM, Boundary())
    assert set(np.argsort(scores)[-3:]) == {0, 1, 2}


def test_outputs_that_are_no_classes_are_covered_by_their_distance_from_the_mean() -> None:
    x = np.zeros((50, 2), np.float32)
    x[7] = 5
    identity = ModuleForm(None, True, ("input",), ("output",), ("output",), "")
    spec = TensorSpec(name="input", dtype="float32", shape=("n", 2, 1, 1))
    rows = data.read({"input": x[:, :, None, None]}, Signature(inputs=(spec,), outputs=()))
    assert int(hardness(rows, identity, nn.Identity()).argmax()) == 7


def test_embeddings_have_no_classes_to_be_unsure_of() -> None:
    torch.manual_seed(0)
    outputs = torch.randn(40, 6)
    outputs[7] = torch.tensor([30.0, 0, 0, 0, 0, 0])  # as classes, the surest of all
    parts = [({"y": outputs}, None)]
    assert int(hardness_of(parts, {"y": "cosine"}).argmax()) == 7
    assert int(hardness_of(parts).argmin()) == 7


def test_examples_without_a_label_count_by_how_unsure_the_original_is() -> None:
    outputs = torch.tensor([[9.0, 0.0], [0.1, 0.0], [9.0, 0.0]])
    labels = torch.tensor([IGNORED, IGNORED, 1])
    sure, unsure, wrong = hardness_of([({"y": outputs}, labels)])
    assert sure < 0.01 < 0.9 < unsure < wrong


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match="5 of 3"):
        choose(np.zeros(3), 5)
