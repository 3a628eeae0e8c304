from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strop import data
from strop.data import Dataset
from strop.errors import DataError
from strop.records import Signature, TensorSpec

X = Signature(inputs=(TensorSpec(name="x", dtype="int64", shape=("n",)),), outputs=())


def dataset(values, groups=None) -> Dataset:
    arrays = {"x": np.asarray(values, np.int64)}
    if groups is not None:
        arrays["group"] = np.asarray(groups)
    return data.read(arrays, X)


def values_of(part: Dataset) -> set[int]:
    return set(part.inputs()["x"].tolist()) if len(part) else set()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(1, 60), st.integers(0, 2**32 - 1), st.text(max_size=3))
def test_roles_are_disjoint_complete_and_never_cut_a_group(rows, groups, seed, salt):
    codes = np.random.default_rng(seed).integers(0, groups, rows)
    whole = dataset(np.arange(rows), codes)
    roles = data.split(whole, salt=salt)
    parts = [roles[name] for name in ("calibrate", "search", "prove")]
    taken = np.concatenate([part.rows for part in parts])
    assert len(np.unique(taken)) == len(taken)
    groups_of = [set(part.groups.tolist()) for part in parts]
    assert not (groups_of[0] & groups_of[1] or groups_of[0] & groups_of[2])
    assert not groups_of[1] & groups_of[2]
    # Only a calibration group that is bigger than the role loses rows.
    largest = np.bincount(codes).max()
    assert rows - len(taken) <= largest
    assert len(parts[0]) <= max(1, min(256, rows // 10))
    assert len(parts[1])
    assert bool(len(parts[2])) == (len(set(codes.tolist())) > 1)


@settings(max_examples=30, deadline=None)
@given(st.integers(10, 4000))
def test_shares_of_independent_rows(rows):
    roles = data.split(dataset(np.arange(rows)))
    assert len(roles["calibrate"]) == min(256, rows // 10)
    assert abs(len(roles["search"]) - 0.3 * rows) <= 1
    assert sum(map(len, roles.values())) == rows
    assert roles.warnings == ()


@settings(max_examples=20, deadline=None)
@given(st.permutations(list(range(40))))
def test_the_order_of_rows_makes_no_difference(order):
    straight, shuffled = data.split(dataset(np.arange(40))), data.split(dataset(order))
    for role in straight:
        assert values_of(straight[role]) == values_of(shuffled[role])


def test_the_salt_does():
    first, second = (data.split(dataset(np.arange(100)), salt=salt) for salt in "ab")
    assert values_of(first["prove"]) != values_of(second["prove"])


def test_big_groups_do_not_swallow_a_role():
    roles = data.split(dataset(np.arange(1000), np.arange(1000) // 200))
    assert [len(set(roles[name].groups.tolist())) for name in roles] == [1, 1, 3]
    assert len(roles["calibrate"]) == 100


def test_few_rows_serve_search_first_then_prove():
    assert [len(part) for part in data.split(dataset([1])).values()] == [0, 1, 0]
    assert [len(part) for part in data.split(dataset([1, 2])).values()] == [0, 1, 1]
    assert [len(part) for part in data.split(dataset([1, 2, 3])).values()] == [1, 1, 1]


def test_a_row_that_repeats_another_counts_once():
    roles = data.split(dataset([*range(50), 7, 7, 9]))
    assert sum(map(len, roles.values())) == 50
    assert roles.warnings == ("3 rows repeat others and are left out (the data)",)
    for part in roles.values():
        assert len(np.unique(part.groups)) == len(part)


def test_given_groups_say_that_repeats_are_examples():
    roles = data.split(dataset([3] * 60, np.arange(60)))
    assert sum(map(len, roles.values())) == 60
    assert roles.warnings == ()


class TestTrain:
    def test_it_feeds_train_and_calibrate(self):
        roles = data.split(dataset(np.arange(1000)), train=dataset(np.arange(5000, 8000)))
        assert len(roles["train"]) == 3000
        assert len(roles["calibrate"]) == 256
        assert values_of(roles["calibrate"]) <= values_of(roles["train"])
        assert len(roles["search"]) == 300
        assert len(roles["prove"]) == 700

    def test_it_loses_what_judges(self):
        roles = data.split(dataset(np.arange(1000)), train=dataset(np.arange(990, 2000)))
        assert values_of(roles["train"]) == set(range(1000, 2000))
        assert sum("left out" in line for line in roles.warnings) == len(roles.warnings) > 0

    def test_it_may_not_be_all_of_the_data(self):
        with pytest.raises(DataError, match=r"examples? of the data are in .*, too; give examples"):
            data.split(dataset(np.arange(10)), train=dataset([3]))


class TestProve:
    def test_it_stays_whole_and_the_others_lose_what_they_share(self):
        roles = data.split(dataset(np.arange(1000)), prove=dataset(np.arange(900, 1400)))
        assert values_of(roles["prove"]) == set(range(900, 1400))
        assert values_of(roles["search"]) | values_of(roles["calibrate"]) == set(range(900))
        assert len(roles["calibrate"]) == 90
        assert roles.warnings == (
            "100 examples of the data are in the proof set, too, and left out of the others",
        )

    def test_groups_are_shared_even_where_rows_are_not(self):
        roles = data.split(
            dataset(np.arange(100), np.arange(100) // 10),
            prove=dataset(np.arange(500, 600), np.arange(100, 200) // 10 - 5),
        )
        assert values_of(roles["search"]) | values_of(roles["calibrate"]) <= set(range(50))

    def test_it_may_not_hold_everything(self):
        with pytest.raises(DataError, match="all 10 examples of the data are in the proof set"):
            data.split(dataset(np.arange(10)), prove=dataset(np.arange(20)))

    def test_with_train_all_data_choose(self):
        roles = data.split(
            dataset(np.arange(100)),
            train=dataset(np.arange(200, 500)),
            prove=dataset(np.arange(600, 900)),
        )
        assert {name: len(part) for name, part in roles.items()} == {
            "calibrate": 256,
            "search": 100,
            "prove": 300,
            "train": 300,
        }
