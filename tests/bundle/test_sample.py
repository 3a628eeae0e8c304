from __future__ import annotations

import numpy as np
import pytest

from strop.bundle.sample import cap, pack, read_arrays, repeated, unpack, write_arrays
from strop.bundle.scoring import outputs_of
from strop.records import Signature, TensorSpec


def test_the_sample_is_cut_to_its_limit():
    x = np.zeros((8, 1000), np.float64)
    assert cap({"x": x}, {"y": x}, limit=10**6).rows == 8
    assert cap({"x": x}, {"y": x}, limit=40_000).rows == 2
    assert cap({"x": x}, {"y": x}, limit=1).rows == 1


def test_outputs_that_are_no_rows_are_kept_whole():
    x = np.zeros((8, 1000), np.float64)
    assert cap({"x": x}, {"mean": x[:1]}, limit=1).rows == 8


def test_names_of_tensors_survive_the_file(tmp_path):
    names = ("a/b:0", "input.1", "file", "../x", "ids")
    sample = cap({name: np.arange(3) for name in names}, {"y": np.array(["a", "b", "c"], object)})
    write_arrays(tmp_path / "sample.npz", pack(sample))
    read = unpack(read_arrays(tmp_path / "sample.npz"))
    assert tuple(read.inputs) == names
    assert read.outputs["y"].tolist() == ["a", "b", "c"]


def test_equal_arrays_give_equal_files(tmp_path):
    for name in ("a", "b"):
        write_arrays(tmp_path / name, {"x": np.arange(9)})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


class _Doubles:
    def __init__(self, batch: int | str) -> None:
        x = TensorSpec(name="x", dtype="int64", shape=(batch,))
        self.signature = Signature(inputs=(x,), outputs=())
        self.sizes: list[int] = []

    def run(self, arrays):
        self.sizes.append(len(arrays["x"]))
        return {"y": 2 * arrays["x"]}


@pytest.mark.parametrize(
    ("batch", "size", "sizes"), [("n", None, [7]), ("n", 3, [3, 3, 1]), (4, None, [4, 4])]
)
def test_outputs_come_in_calls_that_fit(batch, size, sizes):
    session = _Doubles(batch)
    assert outputs_of(session, {"x": np.arange(7)}, size)["y"].tolist() == list(range(0, 14, 2))
    assert session.sizes == sizes


def test_rows_are_repeated_up_to_the_batch():
    assert repeated({"x": np.arange(3)}, 5)["x"].tolist() == [0, 1, 2, 0, 1]
    assert repeated({"x": np.arange(3)}, 2)["x"].tolist() == [0, 1]
