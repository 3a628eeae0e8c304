"""Every test has a cache and a ledger of its own, and no engine sends usage reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from strop.engines import quiet_telemetry

# Before any test module imports openvino itself: its reports fork this process for each call.
quiet_telemetry()


@pytest.fixture(autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder: Path = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("STROP_CACHE", str(folder / "cache"))
    monkeypatch.setenv("STROP_LEDGER", str(folder / "ledger.jsonl"))
