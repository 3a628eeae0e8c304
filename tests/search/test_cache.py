from __future__ import annotations

import os
from pathlib import Path

import pytest

from strop.search.cache import Cache


def writer(text: str) -> object:
    def make(folder: Path) -> None:
        (folder / "file").write_text(text)

    return make


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    first = cache.get({"a": 1}, writer("one"))  # type: ignore[arg-type]
    second = Cache(tmp_path).get({"a": 1}, writer("two"))  # type: ignore[arg-type]
    assert first == second
    assert (second / "file").read_text() == "one"
    assert (cache.hits, cache.misses) == (0, 1)


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("no")

    cache = Cache(tmp_path)
    with pytest.raises(RuntimeError):
        cache.get({"a": 1}, fail)
    assert list(tmp_path.iterdir()) == []


def test_the_least_recently_used_goes_first_and_what_is_in_use_stays(tmp_path: Path) -> None:
    for number in range(3):
        entry = Cache(tmp_path).get({"n": number}, writer("x" * 1000))  # type: ignore[arg-type]
        os.utime(entry, (number, number))
    cache = Cache(tmp_path, limit=2500)
    kept = cache.get({"n": 0}, writer("never made"))  # type: ignore[arg-type]
    os.utime(kept, (0, 0))
    cache.get({"n": 9}, writer("y" * 1000))  # type: ignore[arg-type]
    left = {(entry / "file").read_text()[0] for entry in tmp_path.iterdir()}
    assert kept.is_dir()
    assert len(list(tmp_path.iterdir())) == 2
    assert left == {"x", "y"}
