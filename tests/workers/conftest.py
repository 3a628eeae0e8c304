from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from strop.workers import Child


@pytest.fixture(autouse=True)
def _handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children find ``handlers`` first on the path that they are given."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that ends may take as long as a busy machine lets it."""
    monkeypatch.setattr("strop.workers.child._GRACE", 100.0)


@pytest.fixture
def child() -> Iterator[Child]:
    with Child(name="test") as child:
        yield child


@pytest.fixture
def gone() -> Callable[[int], bool]:
    """Whether a process ends, or is a zombie nobody has reaped yet, within a minute."""

    def gone(pid: int) -> bool:
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up:
            try:
                os.kill(pid, 0)
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    return True
            except (ProcessLookupError, FileNotFoundError):
                return True
            time.sleep(0.01)
        return False

    return gone
