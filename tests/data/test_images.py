from __future__ import annotations

import sys

import numpy as np
import pytest

from strop import data
from strop.errors import DataError, MissingExtra

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def folder(tmp_path):
    """Two classes, five pictures of 6×4 pixels; `pixels` in the order of classes and names."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    names = ["cat/1.png", "cat/deep/2.png", "dog/1.bmp", "dog/2.PNG", "dog/3.png"]
    for name, picture in zip(names, pixels, strict=True):
        path = tmp_path / "pets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    (tmp_path / "pets" / "dog" / "notes.txt").write_text("no image")
    return tmp_path / "pets", pixels


def test_pictures_in_the_layout_of_the_input(folder, signature):
    path, pixels = folder
    dataset = data.read(path, signature(x=("float32", "n", 3, 4, 6)))
    assert dataset.targets().tolist() == [0, 0, 1, 1, 1]
    expected = pixels[[3, 0]].transpose(0, 3, 1, 2) / np.float32(255)
    np.testing.assert_array_equal(dataset.inputs([3, 0])["x"], expected)
    channels_last = data.read(path, signature(x=("uint8", "n", None, None, 3)))
    np.testing.assert_array_equal(channels_last.inputs()["x"], pixels)
    assert data.read(path, signature(x=("float32", "n", 1, 4, 6))).inputs()["x"].shape[1] == 1


def test_the_division_by_255_is_told(folder, signature):
    wanted = signature(x=("float32", "n", 3, "h", "w"))
    (warning,) = data.check(data.read(folder[0], wanted), wanted)
    assert "pixels are divided by 255 for 'x'" in warning


def test_another_size_asks_for_preprocess(folder, signature):
    with pytest.raises(DataError, match=r"'1\.png' is 6×4 pixels but x: .*resize .*--preprocess"):
        data.read(folder[0], signature(x=("float32", "n", 3, 224, 224)))
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(folder[0] / "dog" / "9.png")
    dataset = data.read(folder[0], signature(x=("float32", "n", 3, "h", "w")))
    with pytest.raises(DataError, match=r"'9\.png' is 5×5 pixels but the first image is 6×4"):
        dataset.inputs()


def test_preprocess_gets_pictures_of_any_size(folder, signature, write_py):
    path, pixels = folder
    Image.fromarray(np.full((9, 9, 3), 7, np.uint8)).save(path / "dog" / "9.png")
    code = """
import numpy as np
def corner(batch):
    return {"x": np.stack([image[:2, :2].astype(np.float32) for image in batch["image"]])}
"""
    prep = write_py("prep.py", code)
    dataset = data.read(
        path, signature(x=("float32", "n", 2, 2, 3)), preprocess=f"{prep}:corner", trust=True
    )
    result = dataset.inputs()["x"]
    np.testing.assert_array_equal(result[:5], pixels[:, :2, :2])
    np.testing.assert_array_equal(result[5], np.full((2, 2, 3), 7))
    again = data.reopen(dataset.subset([5]).describe())
    np.testing.assert_array_equal(again.inputs()["x"], result[5:])


def test_a_copied_file_is_a_duplicate(folder, signature):
    path, _ = folder
    (path / "dog" / "4.png").write_bytes((path / "cat" / "1.png").read_bytes())
    contents = data.read(path, signature(x=("float32", "n", 3, 4, 6))).contents
    assert contents[0] == contents[5]
    assert len(np.unique(contents)) == 5


def test_what_is_no_folder_of_images_is_told(tmp_path, folder, signature):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="'empty' holds no images in subfolders"):
        data.read(empty, signature(x=("float32", "n", 3, 4, 6)))
    with pytest.raises(DataError, match="images do not fit the input x: int64"):
        data.read(folder[0], signature(x=("int64", "n", 3, 4, 6)))
    with pytest.raises(DataError, match="images feed one input"):
        data.read(folder[0], signature(x=("float32", "n", 3, 4, 6), z=("float32", "n", 1)))
    (folder[0] / "cat" / "1.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"1\.png' cannot be read: .*; replace or remove it"):
        data.read(folder[0], signature(x=("float32", "n", 3, 4, 6)))


def test_without_pillow_the_extra_is_named(folder, signature, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtra, match=r"'pillow' is not installed.*strop\[data\]"):
        data.read(folder[0], signature(x=("float32", "n", 3, 4, 6)))
