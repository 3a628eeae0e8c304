from __future__ import annotations

import mmap
import zipfile
from pathlib import Path

import numpy as np
import pytest

from strop import data
from strop.data.npz import NpzReader
from strop.errors import DataError


def open_npz(path: Path) -> dict[str, np.ndarray]:
    return NpzReader().open(str(path), None, trust=False)  # type: ignore[return-value]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back(tmp_path, arrays, save):
    arrays |= {
        "fortran": np.asfortranarray(np.arange(40.0).reshape(20, 2)),
        "input.1:0": np.arange(20, dtype=np.uint8),
        "flags": np.arange(20) % 2 == 0,
        "no columns": np.zeros((20, 0)),
    }
    save(tmp_path / "a.npz", **arrays)
    columns = open_npz(tmp_path / "a.npz")
    assert set(columns) == set(arrays)
    for name, expected in arrays.items():
        assert columns[name].dtype == expected.dtype
        np.testing.assert_array_equal(columns[name][np.arange(20)], expected)


def test_uncompressed_members_are_mapped_not_read(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(4.0))
    column = open_npz(tmp_path / "a.npz")["x"]
    assert isinstance(column, np.memmap)
    assert isinstance(column.base, mmap.mmap)
    assert not column.flags.writeable


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="asks Linux what is resident")
def test_reading_rows_touches_those_rows_only(tmp_path, signature):
    values = np.zeros((64, 1 << 16), np.float32)  # 16 MiB, 256 KiB a row
    np.savez(tmp_path / "a.npz", x=values)
    dataset = data.read(tmp_path / "a.npz", signature(x=("float32", "n", 1 << 16)))
    before = resident(tmp_path / "a.npz")
    dataset.inputs([3])
    touched = resident(tmp_path / "a.npz") - before
    assert 0 < touched < 8 << 20


def resident(path: Path) -> int:
    """Bytes of the mappings of a file that this process holds in memory."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def test_objects_are_refused_without_unpickling(tmp_path):
    values = np.array([{"a": 1}, None], dtype=object)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", x=values)
        with pytest.raises(DataError, match=r"'x' in a\.npz holds Python objects, .* pickle"):
            open_npz(tmp_path / "a.npz")


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"no zip at all")
    with pytest.raises(DataError, match=r"'a\.npz' cannot be read: .*numpy\.savez"):
        open_npz(tmp_path / "a.npz")


def test_an_archive_without_arrays_is_named(tmp_path):
    np.savez(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"'a\.npz' holds no arrays"):
        open_npz(tmp_path / "a.npz")


def test_headers_of_version_two_are_read(tmp_path):
    values = np.arange(6.0).reshape(2, 3)
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with (
            zipfile.ZipFile(tmp_path / "a.npz", "w", compression) as archive,
            archive.open("x.npy", "w") as file,
        ):
            np.lib.format.write_array(file, values, version=(2, 0))
        np.testing.assert_array_equal(open_npz(tmp_path / "a.npz")["x"], values)


def test_a_file_cut_short_is_told(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(1000.0))
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[:-40])
    with pytest.raises(DataError, match=r"'a\.npz' cannot be read"):
        open_npz(tmp_path / "a.npz")
