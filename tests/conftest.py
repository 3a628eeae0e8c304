"""Every test has a cache and a ledger of its own, and no engine sends usage reports."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from strop.engines import quiet_telemetry

# Before any test module imports openvino itself: its reports fork this process for each call.
quiet_telemetry()

# How long one example takes says how busy the machine is, and decides no test.
settings.register_profile(
    "untimed",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder: Path = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("STROP_CACHE", str(folder / "cache"))
    monkeypatch.setenv("STROP_LEDGER", str(folder / "ledger.jsonl"))
