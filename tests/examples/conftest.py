"""The scripts of examples/zoo import one another by their bare names."""

from __future__ import annotations

from pathlib import Path

import pytest

ZOO = Path(__file__).parents[2] / "examples" / "zoo"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ZOO)


@pytest.fixture
def files() -> Path:
    """What fetch.py copies into the models' folders."""
    return ZOO / "files"
