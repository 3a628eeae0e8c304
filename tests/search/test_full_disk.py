"""A disk that runs full: one line that says where, and nothing half-written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import strop
from strop.errors import InputError, StropError
from strop.records import StageEntered, read_event
from strop.search import Request, jobs, optimize
from strop.search.cache import Cache
from strop.search.journal import Journal, read_journal
from strop.search.ledger import Ledger
from strop.search.workspace import rethrown
from strop.workers import ChildFailed

from .digits import write_data, write_model
from .short import BUDGET, settle_speed, shorten
from .short import STROP as SHORT_STROP

STROP = [sys.executable, "-c", "from strop.cli import main; main()"]
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "digits.onnx")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "digits.npz")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A small file system in memory; called again it takes another size."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def sized(size: str) -> Path:
        nonlocal mounted
        options = f"remount,size={size}" if mounted else f"size={size}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("a file system may not be mounted here")
        mounted = True
        return place

    yield sized
    if mounted:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def full_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Let the file system have no room for files whose path holds a text, from the nth sync on."""

    def break_(text: str, after: int = 0) -> None:
        sync, seen = os.fsync, 0

        def fsync(descriptor: int) -> None:
            nonlocal seen
            if text in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
                seen += 1
                if seen > after:
                    raise FULL
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)

    return break_


def search(model: Path, data: Path, output: Path) -> Request:
    return Request(
        model=model,
        data=data,
        within="3%",
        output=output,
        budget=BUDGET,
        engines=["onnxruntime"],
        techniques=["fp16"],
    )


def test_a_disk_that_is_full_before_the_search_is_refused_at_once(
    model: Path, data: Path, disk: Callable[[str], Path]
) -> None:
    place = disk("128k")
    (place / "filler").write_bytes(bytes(120 * 1024))
    with pytest.raises(InputError, match="No space left on device"):
        optimize(search(model, data, place / "out"))
    assert [path.name for path in place.iterdir()] == ["filler"]


def test_a_disk_that_runs_full_ends_the_command_with_one_line_and_it_can_be_resumed(
    model: Path, data: Path, disk: Callable[[str], Path]
) -> None:
    place = disk("120k")  # room for the journal, none for the bundle
    command = ["optimize", str(model), "--data", str(data), "--within", "3%"]
    command += ["--engine", "onnxruntime", "--technique", "fp16", "--output", str(place / "out")]
    first = [*SHORT_STROP, *command, "--budget", BUDGET]
    done = subprocess.run(first, capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert last.startswith("strop: ")
    assert "No space left on device" in last
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert [path.name for path in (place / "out").iterdir()] == ["journal.jsonl"]
    for line in (place / "out" / "journal.jsonl").read_bytes().splitlines(keepends=True):
        assert line.endswith(b"\n")
        read_event(line)
    disk("8m")
    # Nothing of it cut short, and its time is up: it still ends with an answer.
    second = [*STROP, *command, "--budget", "1s", "--resume"]
    done = subprocess.run(second, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr
    assert strop.load(place / "out" / "bundle").signature.output_names == ("logits",)


@pytest.mark.parametrize(
    ("where", "after", "left"),
    [
        ("journal.jsonl", 0, None),
        ("journal.jsonl", 3, {"journal.jsonl"}),
        ("/.bundle-", 0, {"journal.jsonl"}),
        ("/.result.json-", 0, {"journal.jsonl", "bundle"}),
    ],
)
def test_wherever_the_disk_runs_full_nothing_is_half_written(
    model: Path,
    data: Path,
    tmp_path: Path,
    full_for: Callable[[str, int], None],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    after: int,
    left: set[str] | None,
) -> None:
    output = tmp_path / "out"
    shorten(monkeypatch, patience=1)
    settle_speed(monkeypatch, 1.1)
    full_for(where, after)
    with pytest.raises(InputError, match="No space left on device") as caught:
        optimize(search(model, data, output))
    assert "\n" not in str(caught.value)
    if left is None:
        assert not output.exists()
        return
    assert {path.name for path in output.iterdir()} == left
    assert len(list(read_journal(output / "journal.jsonl"))) >= after
    if "bundle" in left:
        found = strop.bundle.recompute(output / "bundle")
        assert [str(figure) for figure in found if figure.agrees is False] == []
        assert found


def test_an_event_that_finds_no_room_leaves_the_journal_whole(
    tmp_path: Path, full_for: Callable[[str, int], None]
) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(StageEntered(stage="race"))
    full_for("journal.jsonl", 0)
    with pytest.raises(InputError, match="make room, then go on with --resume"):
        journal.append(StageEntered(stage="proof"))
    journal.close()
    assert list(read_journal(tmp_path / "journal.jsonl")) == [StageEntered(stage="race")]


def test_a_run_that_finds_no_room_in_the_ledger_hides_no_later_one(
    tmp_path: Path, full_for: Callable[[str, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.jsonl"
    assert Ledger(path).open_set("set", "a") == 1
    before = path.read_bytes()
    with monkeypatch.context():
        full_for("ledger.jsonl", 0)
        with pytest.raises(InputError, match="No space left"):
            Ledger(path).open_set("set", "b")
    monkeypatch.undo()
    assert path.read_bytes() == before
    path.write_bytes(before + b'{"proof_set": "se')  # what an older crash may have left
    assert Ledger(path).open_set("set", "c") == 2
    assert Ledger(path).open_set("set", "d") == 3


def test_a_full_cache_is_named(tmp_path: Path, disk: Callable[[str], Path]) -> None:
    place = disk("64k")

    def make(folder: Path) -> None:
        (folder / "large").write_bytes(bytes(200_000))

    def fail(folder: Path) -> None:  # as where a child wrote, and only its message comes back
        (folder / "large").touch()
        raise StropError("the child failed")

    with pytest.raises(InputError, match=r"cache .* No space left on device; .*STROP_CACHE"):
        Cache(place / "cache").get({"a": 1}, make)
    (place / "filler").write_bytes(bytes(40_000))
    with pytest.raises(InputError, match=r"cache .* No space left on device; .*STROP_CACHE"):
        Cache(place / "cache").get({"a": 1}, fail)
    assert list((place / "cache").iterdir()) == []


def test_outputs_that_find_no_room_do_not_kill_the_child(disk: Callable[[str], Path]) -> None:
    """Without room taken beforehand, the first write to a page would be a SIGBUS."""
    import numpy as np

    place = disk("64k")
    with pytest.raises(InputError, match="4,000,000 bytes"):
        jobs._mapped(place / "0.npy", np.dtype(np.float32), (1000, 1000))


def test_what_a_child_says_of_a_full_disk_is_bad_input() -> None:
    failure = ChildFailed(error_type="OSError", error_message=str(FULL))
    with pytest.raises(InputError, match="TMPDIR"), rethrown():
        raise failure


def test_a_full_stdout_is_one_line_and_code_2(model: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*STROP, "inspect", str(model), "--quick", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "strop: the output cannot be written: No space left on device; make room"
    )
    assert "Traceback" not in done.stderr
