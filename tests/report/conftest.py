"""Made-up results, and the browser where there is one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from . import made


@pytest.fixture
def improved_folder(tmp_path: Path) -> Path:
    result = made.improved()
    return made.folder(tmp_path / "out", result, raw=made.timings(), arrays=made.scores(result))


@pytest.fixture
def unimproved_folder(tmp_path: Path) -> Path:
    raw = {"original/equivalent": made.pair(6.64e-3, 4.37e-3)}
    return made.folder(tmp_path / "out", made.unimproved(), raw=raw)


@pytest.fixture(scope="session")
def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no chromium found; install it to see the report as a reader does")
