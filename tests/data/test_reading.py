from __future__ import annotations

import numpy as np
import pytest

from strop import data
from strop.errors import DataError, InputError, TrustError


def test_everything_that_goes_along_is_found(arrays, signature):
    dataset = data.read(arrays, signature(x=("float32", "n", 4)))
    assert len(dataset) == 20
    assert dataset.has_target
    assert dataset.has_groups
    np.testing.assert_array_equal(dataset.inputs([5, 1])["x"], arrays["x"][[5, 1]])
    np.testing.assert_array_equal(dataset.targets([5, 1]), arrays["target"][[5, 1]])
    np.testing.assert_array_equal(dataset.times, arrays["time"])
    np.testing.assert_array_equal(dataset.slices["site"], arrays["slice:site"])
    assert len(set(dataset.groups.tolist())) == 10
    assert dataset.groups[0] == dataset.groups[1] != dataset.groups[2]


def test_a_subset_counts_from_zero_and_knows_its_source_rows(arrays, signature):
    dataset = data.read(arrays, signature(x=("float32", "n", 4))).subset([7, 3, 9])
    again = dataset.subset(np.array([False, True, True]))
    assert again.rows.tolist() == [3, 9]
    np.testing.assert_array_equal(again.inputs()["x"], arrays["x"][[3, 9]])
    np.testing.assert_array_equal(again.slices["site"], arrays["slice:site"][[3, 9]])


def test_batches_cover_all_rows_in_order(arrays, signature):
    dataset = data.read(arrays, signature(x=("float32", "n", 4)))
    parts = list(dataset.batches(6))
    assert [len(rows) for rows, _ in parts] == [6, 6, 6, 2]
    np.testing.assert_array_equal(np.concatenate([rows for rows, _ in parts]), np.arange(20))
    np.testing.assert_array_equal(np.concatenate([x["x"] for _, x in parts]), arrays["x"])


def test_a_fixed_batch_dimension_says_nothing_about_the_number_of_rows(arrays, signature):
    assert len(data.read(arrays, signature(x=("float32", 1, 4)))) == 20


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("int32", "int64"), ("uint8", "int64"), ("int64", "int32"), ("float16", "float32")],
)
def test_casts_that_lose_nothing(signature, given, wanted):
    values = np.arange(6).reshape(3, 2).astype(given)
    result = data.read({"x": values}, signature(x=(wanted, "n", 2))).inputs()["x"]
    assert result.dtype == wanted
    np.testing.assert_array_equal(result, values)


def test_text_becomes_what_onnx_runtime_takes(signature):
    dataset = data.read({"x": np.array(["a", "bc"])}, signature(x=("str", "n")))
    assert dataset.inputs()["x"].dtype == object
    assert dataset.inputs()["x"].tolist() == ["a", "bc"]


def test_integers_that_do_not_fit_are_refused(signature):
    dataset = data.read({"x": np.array([1, 2**40])}, signature(x=("int32", "n")))
    with pytest.raises(DataError, match=r"'x' is int32\[\?\] but .* int64\[2\]; 1099511627776 is"):
        data.check(dataset, dataset.signature)


def test_the_error_names_both_sides_and_the_way_out(tmp_path, signature):
    np.savez(tmp_path / "examples.npz", ids=np.zeros((100, 128), np.float32))
    with pytest.raises(DataError) as caught:
        data.read(tmp_path / "examples.npz", signature(ids=("int64", "n", "t")))
    assert str(caught.value) == (
        "input 'ids' is int64[?, ?] but examples.npz holds float32[100, 128]; "
        "cast it, or name another array with --input ids=…"
    )


@pytest.mark.parametrize(
    ("values", "spec", "text"),
    [
        (np.zeros((5, 3), np.uint8), ("float32", "n", 3), r"uint8\[5, 3\]; scale and cast it as"),
        (np.zeros((5, 4), np.float32), ("float32", "n", 3), r"float32\[\?, 3\] but .*\[5, 4\]; re"),
        (np.zeros(5, np.float32), ("float32", "n", 3), r"float32\[5\]; add the missing dimension"),
        (np.zeros((5, 3, 1), np.float32), ("float32", "n", 3), r"\[5, 3, 1\]; reshape it"),
        (np.zeros((5, 3), bool), ("float32", "n", 3), r"bool\[5, 3\]; cast it"),
        (np.array(["a"]), ("float32", "n"), r"text\[1\]; cast it"),
        (np.zeros((5, 3)), ("int64", "n", 3), r"int64\[\?, 3\] but the data holds float64\[5, 3\]"),
    ],
)
def test_what_does_not_fit_is_told(values, spec, text, signature):
    with pytest.raises(DataError, match=text):
        data.read({"x": values}, signature(x=spec))


def test_symbols_agree_across_inputs(signature):
    two = signature(a=("int64", "n", "t"), b=("int64", "n", "t"))
    data.read({"a": np.zeros((2, 5), int), "b": np.zeros((2, 5), int)}, two).inputs()
    with pytest.raises(DataError, match="'t' is 5 in input 'a' but 6 in 'b'; pad"):
        data.read({"a": np.zeros((2, 5), int), "b": np.zeros((2, 6), int)}, two)


def test_a_lone_array_of_another_name_suggests_the_rename(arrays, signature):
    arrays["images"] = arrays.pop("x")
    wanted = signature(x=("float32", "n", 4))
    with pytest.raises(
        DataError, match=r"input 'x' is not there.*name the array with --input x=im"
    ):
        data.read(arrays, wanted)
    dataset = data.read(arrays, wanted, renames={"x": "images"})
    np.testing.assert_array_equal(dataset.inputs()["x"], arrays["images"])
    with pytest.raises(InputError, match="--input x=image names no array of the data; it holds"):
        data.read(arrays, wanted, renames={"x": "image"})


def test_rows_must_be_as_many_everywhere(arrays, signature):
    arrays["target"] = arrays["target"][:-1]
    with pytest.raises(DataError, match="'x' has 20 rows but 'target' has 19 in the data"):
        data.read(arrays, signature(x=("float32", "n", 4)))


def test_no_rows_no_data(signature):
    with pytest.raises(DataError, match="the data holds no examples"):
        data.read({"x": np.zeros((0, 4), np.float32)}, signature(x=("float32", "n", 4)))


def test_a_single_value_is_no_array_of_examples(signature):
    arrays = {"x": np.zeros((2, 4), np.float32), "target": np.int64(3)}
    with pytest.raises(DataError, match="'target' in the data is a single value"):
        data.read(arrays, signature(x=("float32", "n", 4)))


def test_lengths_belong_to_an_input_and_stay_within_it(signature):
    wanted = signature(ids=("int64", "n", "t"))
    ids = np.zeros((3, 5), np.int64)
    dataset = data.read({"ids": ids, "ids:lengths": np.array([5, 1, 0])}, wanted)
    assert dataset.lengths["ids"].tolist() == [5, 1, 0]
    with pytest.raises(DataError, match="something else than lengths from 0 to 5"):
        data.read({"ids": ids, "ids:lengths": np.array([5, 6, 0])}, wanted)
    with pytest.raises(DataError, match="'mask:lengths' in the data belongs to no input"):
        data.read({"ids": ids, "mask:lengths": np.array([5, 6, 0])}, wanted)


def test_an_input_may_be_called_target(signature):
    dataset = data.read(
        {"target": np.ones((2, 1), np.float32)}, signature(target=("float32", 1, 1))
    )
    assert not dataset.has_target
    assert dataset.inputs()["target"].shape == (2, 1)


def test_ragged_lists_are_refused(signature):
    ragged = np.array([[1, 2], [3]], dtype=object)
    with pytest.raises(DataError, match="pad rows of different lengths"):
        data.read({"ids": ragged}, signature(ids=("int64", "n", "t")))


def test_an_unknown_kind_of_file_and_a_missing_one(tmp_path, signature):
    (tmp_path / "a.mat").write_bytes(b"")
    with pytest.raises(DataError, match=r"no reader knows what 'a\.mat' is; give \.npz"):
        data.read(tmp_path / "a.mat", signature())
    with pytest.raises(DataError, match="there is no file"):
        data.read(tmp_path / "b.npz", signature())


class TestPreprocess:
    CODE = """
import numpy as np
def scale(batch):
    return {"x": batch["pixels"].astype(np.float32) / 255}
def fails(batch):
    raise KeyError("image")
def wrong(batch):
    return {"x": batch["pixels"]}
def short(batch):
    return {"x": np.zeros((1, 4), np.float32)}
def nothing(batch):
    return 3
def other(batch):
    return {"z": batch["pixels"]}
"""

    def arrays(self):
        return {"pixels": np.arange(24, dtype=np.uint8).reshape(6, 4), "target": np.arange(6)}

    def test_it_makes_the_inputs(self, signature, write_py):
        path = write_py("prep.py", self.CODE)
        wanted = signature(x=("float32", "n", 4))
        dataset = data.read(self.arrays(), wanted, preprocess=f"{path}:scale", trust=True)
        expected = np.arange(8, 16, dtype=np.float32).reshape(2, 4) / 255
        np.testing.assert_allclose(dataset.inputs([2, 3])["x"], expected)
        assert dataset.targets([2]).tolist() == [2]
        assert data.check(dataset, wanted) == []

    def test_it_needs_trust(self, signature, write_py):
        path = write_py("prep.py", self.CODE)
        with pytest.raises(TrustError, match=r"prep\.py:scale' is code.*--trust"):
            data.read(self.arrays(), signature(x=("float32", 1, 4)), preprocess=f"{path}:scale")

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("fails", r"preprocess prep\.py:fails raises KeyError: 'image'"),
            ("wrong", r"but preprocess prep\.py:wrong gives uint8\[2, 4\]"),
            ("short", r"preprocess prep\.py:short gives 1 rows of 'x' for 2 examples"),
            ("nothing", r"preprocess prep\.py:nothing returns int; return a dict"),
            ("other", r"'x' is not there: preprocess prep\.py:other gives 'z'; add an array"),
        ],
    )
    def test_what_it_does_wrong_is_told_at_once(self, signature, write_py, name, text):
        path = write_py("prep.py", self.CODE)
        with pytest.raises(DataError, match=text):
            data.read(
                self.arrays(),
                signature(x=("float32", "n", 4)),
                preprocess=f"{path}:{name}",
                trust=True,
            )

    def test_a_function_of_this_process_serves_too(self, tmp_path, signature):
        wanted = signature(x=("float32", "n", 4))
        dataset = data.read(
            self.arrays(), wanted, preprocess=lambda it: {"x": it["pixels"] / np.float32(2)}
        )
        halved = self.arrays()["pixels"] / np.float32(2)
        np.testing.assert_array_equal(dataset.inputs()["x"], halved)
        saved = dataset.save_npz(tmp_path / "a.npz")
        again = data.reopen(saved.describe())
        np.testing.assert_array_equal(again.inputs()["x"], halved)
        assert again.digest == dataset.digest
        other = data.read(
            self.arrays(), wanted, preprocess=lambda it: {"x": it["pixels"] / np.float32(3)}
        )
        assert other.digest != dataset.digest


def test_a_lone_array_is_asked_for_its_name(tmp_path, signature):
    np.save(tmp_path / "x.npy", np.zeros((3, 2), np.float32))
    with pytest.raises(DataError, match=r"one array without a name; .*numpy\.savez"):
        data.read(tmp_path / "x.npy", signature(x=("float32", "n", 2)))
