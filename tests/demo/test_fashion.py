import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from strop.demo import fashion
from strop.errors import DataError


def test_the_shipped_images_are_fashion_mnists_test_set():
    image, target = fashion.load_test()
    assert image.shape == (10_000, 1, 28, 28)
    assert image.dtype == np.float32
    assert (image.min(), image.max()) == (0.0, 1.0)
    assert target.dtype == np.int64
    # The published set holds exactly 1,000 images of each class.
    assert np.bincount(target).tolist() == [1_000] * len(fashion.CLASSES)


def test_the_shipped_files_are_small():
    folder = Path(fashion.__file__).parent
    megabytes = sum(f.stat().st_size for f in folder.iterdir() if f.is_file()) / 1e6
    assert megabytes < 8


def test_write_npz_keeps_the_name_it_is_given(tmp_path):
    path = fashion.write_npz(tmp_path / "examples.data")
    assert [file.name for file in tmp_path.iterdir()] == ["examples.data"]
    with np.load(path) as data:
        image, target = fashion.load_test()
        np.testing.assert_array_equal(data["image"], image)
        np.testing.assert_array_equal(data["target"], target)


def test_importing_the_data_does_not_import_torch():
    code = "import sys, strop.demo.fashion; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_arrays_read_are_writable(tmp_path):
    write_idx(tmp_path / "x.gz", np.arange(6).reshape(2, 3))
    array = fashion.read_idx(tmp_path / "x.gz")
    array += 1
    assert array.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"not gzip", "cannot be read"),
        (gzip.compress(b"\0\0\x08"), "expected an idx header"),
        (gzip.compress(b"\0\0\x0d\x01\0\0\0\x01abcd"), "expected an idx header"),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\x05abc"), "holds 3 values"),
        (gzip.compress(b"\0\0\x08\x01" + b"\0" * 900)[:-20], "cannot be read"),
        (gzip.compress(b"\0\0\x08\x01")[:10] + b"\xff" * 20, "cannot be read"),
    ],
    ids=["none", "plain", "short", "floats", "too-few", "cut", "spoilt"],
)
def test_a_file_that_is_no_idx_file_is_named(tmp_path, content, message):
    path = tmp_path / "x.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        fashion.read_idx(path)
    assert str(path) in str(caught.value)


def test_images_and_labels_must_match(tmp_path):
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", np.zeros((3, 28, 28)))
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.zeros(2))
    with pytest.raises(DataError, match=r"images\[3, 28, 28\] and labels\[2\]"):
        fashion.load_split(tmp_path, "train")


def write_idx(path, array):
    header = b"\0\0\x08" + bytes([array.ndim])
    header += b"".join(length.to_bytes(4, "big") for length in array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))
