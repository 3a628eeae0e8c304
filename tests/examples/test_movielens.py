"""The recommender of examples/zoo: reading the ratings, their split and its metric."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

TEXT = """user_id:token\titem_id:token\trating:float\ttimestamp:float
196\t242\t3\t881250949
186\t302\t4\t891717742
22\t377\t5\t878887116
"""


@pytest.fixture
def metric(files: Path) -> dict[str, Any]:
    return runpy.run_path(str(files / "movielens" / "metric.py"))


def test_four_stars_and_more_are_liked() -> None:
    from movielens import read

    table = read(TEXT)
    assert {name: array.tolist() for name, array in table.items()} == {
        "user": [196, 186, 22],
        "item": [242, 302, 377],
        "target": [0, 1, 1],
    }
    assert {array.dtype for array in table.values()} == {np.dtype(np.int64)}


def test_the_split_is_the_same_every_time_and_shares_no_row() -> None:
    from movielens import split

    parts, again = split(100_000), split(100_000)
    assert {name: len(rows) for name, rows in parts.items()} == {
        "train": 80_000,
        "data": 14_000,
        "heldout": 6_000,
    }
    assert len(np.unique(np.concatenate(list(parts.values())))) == 100_000
    assert all(np.array_equal(parts[name], again[name]) for name in parts)


def test_the_sign_of_the_logit_decides(metric: dict[str, Any]) -> None:
    logit, target = np.array([0.3, -0.3, 0.3, -0.3], np.float32), np.array([1, 1, 0, 0])
    assert metric["fn"]({"logit": logit}, target).tolist() == [1, 0, 0, 1]
    assert metric["fn"].kind == "binary"


@pytest.mark.parametrize("ties", [False, True])
def test_the_area_is_the_share_of_pairs_in_the_right_order(
    metric: dict[str, Any], ties: bool
) -> None:
    rng = np.random.default_rng(0)
    logit, target = rng.normal(size=80), rng.integers(0, 2, 80)
    if ties:
        logit = logit.round()
    liked, other = logit[target == 1][:, None], logit[target == 0]
    expected = (liked > other).mean() + (liked == other).mean() / 2
    assert metric["auc"]({"logit": logit}, target) == pytest.approx(expected)
    assert metric["auc"].level == "set"


def test_the_area_of_one_kind_alone_says_nothing(metric: dict[str, Any]) -> None:
    assert metric["auc"]({"logit": np.array([0.1, 2.0])}, np.array([1, 1])) == 0.5


def test_the_network_takes_every_id(files: Path) -> None:
    names = runpy.run_path(str(files / "movielens" / "model.py"))
    user, item = (torch.tensor([1, names[name]]) for name in ("USERS", "ITEMS"))
    assert names["NeuMF"]()(user, item).shape == (2,)
