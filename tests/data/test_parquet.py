from __future__ import annotations

import sys

import numpy as np
import pytest

from strop import data
from strop.errors import DataError, MissingExtra

pa = pytest.importorskip("pyarrow")
import pyarrow.feather  # noqa: E402
import pyarrow.parquet  # noqa: E402


def table(rows: int = 6) -> pa.Table:
    pixels = np.arange(rows * 4, dtype=np.float32)
    tensors = np.arange(rows * 6, dtype=np.int64).reshape(rows, 2, 3)
    return pa.table(
        {
            "pixels": pa.FixedSizeListArray.from_arrays(pa.array(pixels), 4),
            "ids": pa.array([[1, 2, 3]] * rows),
            "pairs": pa.array([[[1, 2], [3, 4]]] * rows),
            "tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(tensors),
            "name": pa.array(["a", "bc"] * (rows // 2)),
            "target": pa.array(range(rows)),
        }
    )


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "stream.arrow"])
def test_every_kind_of_column(tmp_path, signature, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pyarrow.parquet.write_table(table(), path, row_group_size=4)
    elif suffix == "arrow":
        pyarrow.feather.write_feather(table(), path, compression="uncompressed", chunksize=4)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table().schema) as stream:
            stream.write_table(table(), max_chunksize=4)
    wanted = signature(
        pixels=("float32", "n", 1, 2, 2),
        ids=("int64", "n", "t"),
        pairs=("int64", "n", 2, 2),
        tensor=("int64", "n", 2, 3),
        name=("str", "n"),
    )
    dataset = data.read(path, wanted)
    inputs = dataset.inputs()
    np.testing.assert_array_equal(
        inputs["pixels"], np.arange(24, dtype=np.float32).reshape(6, 1, 2, 2)
    )
    assert inputs["ids"].tolist() == [[1, 2, 3]] * 6
    assert inputs["pairs"].tolist() == [[[1, 2], [3, 4]]] * 6
    np.testing.assert_array_equal(inputs["tensor"], np.arange(36).reshape(6, 2, 3))
    assert inputs["name"].tolist() == ["a", "bc"] * 3
    assert dataset.targets().tolist() == list(range(6))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1], [2, 3]], "have 1 to 2 entries; pad them .* 'x:lengths'"),
        ([1, None], "'x' in a.parquet has 1 rows without a value"),
        ([[1], [None]], "'x' in a.parquet has entries without a value"),
        ([{"a": 1}, {"a": 2}], "is of the type struct"),
    ],
)
def test_what_is_no_array_is_told(tmp_path, signature, values, message):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pa.table({"x": pa.array(values)}), path)
    with pytest.raises(DataError, match=message):
        data.read(path, signature(x=("int64", "n", 1)))


def test_damaged_files_are_named(tmp_path, signature):
    for name in ("a.parquet", "a.arrow"):
        (tmp_path / name).write_bytes(b"PAR1 but no more")
        with pytest.raises(DataError, match=f"'{name}' cannot be read"):
            data.read(tmp_path / name, signature(x=("int64", "n", 1)))


def test_without_pyarrow_the_extra_is_named(tmp_path, signature, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"'pyarrow' is not installed.*strop\[data\]"):
        data.read(tmp_path / "a.parquet", signature(x=("int64", "n", 1)))
