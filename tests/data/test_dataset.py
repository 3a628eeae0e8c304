from __future__ import annotations

import json

import numpy as np
import pytest

from strop import data
from strop.errors import DataError


def test_the_digest_is_of_the_content_not_of_the_place(tmp_path, arrays, signature):
    wanted = signature(x=("float32", "n", 4))
    np.savez(tmp_path / "a.npz", **arrays)
    np.savez_compressed(tmp_path / "b.npz", **arrays)
    first = data.read(tmp_path / "a.npz", wanted)
    assert first.digest == data.read(tmp_path / "b.npz", wanted).digest
    assert first.digest == data.read(arrays, wanted).digest
    assert (
        first.subset([1, 2]).digest
        == data.read({name: values[1:3] for name, values in arrays.items()}, wanted).digest
    )


@pytest.mark.parametrize("name", ["x", "target", "group", "slice:site"])
def test_the_digest_notices_every_change(arrays, signature, name):
    wanted = signature(x=("float32", "n", 4))
    before = data.read(arrays, wanted).digest
    changed = arrays[name].copy()
    changed[7] = changed[6] if name != "group" else "somebody"
    assert data.read({**arrays, name: changed}, wanted).digest != before


def test_the_digest_knows_order_and_type(arrays, signature):
    wanted = signature(x=("float32", "n", 4))
    dataset = data.read(arrays, wanted)
    assert dataset.subset([0, 1]).digest != dataset.subset([1, 0]).digest
    wider = data.read({**arrays, "x": arrays["x"].astype(np.float64)}, wanted)
    assert wider.digest != dataset.digest


def test_reopening_gives_the_same_rows(tmp_path, arrays, signature):
    np.savez(tmp_path / "a.npz", **{("pixels" if n == "x" else n): a for n, a in arrays.items()})
    wanted = signature(x=("float32", "n", 4))
    dataset = data.read(tmp_path / "a.npz", wanted, renames={"x": "pixels"}).subset([4, 2])
    description = dataset.describe()
    rows = description.pop("rows")
    again = data.reopen({**json.loads(json.dumps(description)), "rows": rows.tolist()})
    np.testing.assert_array_equal(again.inputs()["x"], arrays["x"][[4, 2]])
    np.testing.assert_array_equal(again.targets(), arrays["target"][[4, 2]])
    np.testing.assert_array_equal(again.groups, dataset.groups)
    assert again.digest == dataset.digest


def test_reopening_notices_a_changed_preprocess(tmp_path, arrays, signature, write_py):
    np.savez(tmp_path / "a.npz", **arrays)
    path = write_py("prep.py", "def same(batch):\n    return batch\n")
    dataset = data.read(
        tmp_path / "a.npz",
        signature(x=("float32", "n", 4)),
        preprocess=f"{path}:same",
        trust=True,
    )
    description = dataset.describe()
    assert data.reopen(description).digest == dataset.digest
    write_py("prep.py", "def same(batch):\n    return dict(batch)\n")
    with pytest.raises(DataError, match=r"'prep\.py' has changed since"):
        data.reopen(description)


def test_reopening_notices_lost_rows(tmp_path, arrays, signature):
    np.savez(tmp_path / "a.npz", **arrays)
    description = data.read(tmp_path / "a.npz", signature(x=("float32", "n", 4))).describe()
    np.savez(tmp_path / "a.npz", **{name: values[:5] for name, values in arrays.items()})
    with pytest.raises(DataError, match=r"a\.npz has fewer rows"):
        data.reopen(description)


def test_what_lives_in_memory_is_saved_before_it_crosses(tmp_path, arrays, signature):
    dataset = data.read(arrays, signature(x=("float32", "n", 4))).subset([5, 1, 2])
    assert not dataset.stored
    with pytest.raises(DataError, match="call save_npz first"):
        dataset.describe()
    saved = dataset.save_npz(tmp_path / "scratch.npz")
    assert saved.stored
    assert saved.digest == dataset.digest
    again = data.reopen(saved.describe())
    np.testing.assert_array_equal(again.inputs()["x"], arrays["x"][[5, 1, 2]])
    np.testing.assert_array_equal(again.groups, dataset.groups)
    np.testing.assert_array_equal(again.slices["site"], dataset.slices["site"])
    # The saved file is a dataset of its own, and reads alike without the description.
    fresh = data.read(tmp_path / "scratch.npz", dataset.signature)
    assert fresh.digest == dataset.digest


def test_text_is_saved_without_pickle(tmp_path, signature):
    words = np.array(["a", "grüße", ""], dtype=object)
    dataset = data.read({"x": words}, signature(x=("str", "n")))
    saved = dataset.save_npz(tmp_path / "a.npz")
    assert data.reopen(saved.describe()).inputs()["x"].tolist() == words.tolist()
    assert data.read(tmp_path / "a.npz", dataset.signature).digest == dataset.digest


def test_group_codes_do_not_depend_on_order_type_or_file(signature):
    wanted = signature(x=("float32", "n", 1))
    x = np.arange(4, dtype=np.float32)[:, None]
    first = data.read({"x": x, "group": np.array([5, 5, 9, 7])}, wanted).groups
    second = data.read({"x": x, "group": np.array([9, 7, 7, 5], np.uint8)}, wanted).groups
    assert first[2] == second[0]
    assert first[0] == second[3]
    assert first[3] == second[1] == second[2]
    assert len(set(first.tolist())) == 3


class TestDuplicates:
    def contents(self, values, signature):
        return data.read({"x": values}, signature(x=(str(values.dtype), "n", None))).contents

    def test_equal_rows_share_a_code(self, signature):
        rng = np.random.default_rng(1)
        values = rng.standard_normal((50, 3)).astype(np.float32)
        values[17] = values[4]
        codes = self.contents(values, signature)
        assert codes[17] == codes[4]
        assert len(np.unique(codes)) == 49

    def test_a_copy_that_went_through_float16_is_found(self, signature):
        rng = np.random.default_rng(1)
        values = rng.standard_normal((50, 64)).astype(np.float32)
        halves = values.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(
            self.contents(values, signature), self.contents(halves, signature)
        )

    def test_rows_of_few_numbers_must_be_equal(self, signature):
        ages = np.array([[40.0, 81.20], [40.0, 81.21]], np.float32)
        assert len(np.unique(self.contents(ages, signature))) == 2

    def test_rows_that_differ_in_one_small_value_stay_apart(self, signature):
        values = np.full((2, 64), 1e6, np.float32)
        values[1, 3] = 0.5
        assert len(np.unique(self.contents(values, signature))) == 2

    def test_zero_has_no_sign_and_nan_is_not_infinity(self, signature):
        values = np.zeros((4, 16), np.float32)
        values[1] = -0.0
        values[2, 5] = np.nan
        values[3, 5] = np.inf
        codes = self.contents(values, signature)
        assert codes[0] == codes[1]
        assert len(np.unique(codes)) == 3

    def test_integers_are_never_rounded(self, signature):
        values = np.full((2, 64), 100_000)
        values[1, 0] += 1
        assert len(np.unique(self.contents(values, signature))) == 2


class TestCheck:
    def check(self, arrays, wanted):
        return data.check(data.read(arrays, wanted), wanted)

    def test_sound_data_give_no_warning(self, arrays, signature):
        assert self.check(arrays, signature(x=("float32", "n", 4))) == []

    def test_what_is_odd_is_counted(self, arrays, signature):
        arrays["x"] = arrays["x"].astype(np.float64)
        arrays["x"][3, 1], arrays["x"][4, 2] = np.nan, np.inf
        arrays["x"][9] = arrays["x"][8]
        arrays["target"][:] = 2
        arrays["extra"] = np.zeros(20)
        del arrays["group"]
        assert self.check(arrays, signature(x=("float32", "n", 4))) == [
            "'extra' in the data is not used",
            "'x' is cast from float64 to float32",
            "2 rows hold NaN or infinity in 'x'",
            "1 of 20 rows repeats another: each counts once; give an array 'group' if they are "
            "independent examples",
            "every target is 2: the data show one class only",
        ]

    def test_answers_under_another_name_are_asked_for(self, arrays, signature):
        labels = {"x": arrays["x"], "labels": arrays["target"]}
        (told,) = self.check(labels, signature(x=("float32", "n", 4)))
        assert "'labels'" in told and told.endswith("call it 'target'")

    def test_a_float_that_overflows_its_input_is_told(self, signature):
        values = np.array([[1e300], [2.0]])
        warnings = self.check({"x": values}, signature(x=("float32", "n", 1)))
        assert "1 row holds values in 'x' beyond float32" in warnings
