"""An engine that loads and fails when it is first run: a reason, and the search goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from strop import plugins
from strop.report.engines import rows
from strop.search import Request, optimize

from .digits import write_data, write_model
from .short import BUDGET, settle_speed, shorten

PLUG_IN = '''
from strop.engines.onnxruntime import OnnxRuntime


class Broken:
    """A provider whose driver is too old: its session is made, and the first run fails."""

    def run(self, *given):
        raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : CUDA failure 35: driver too old")


class Board(OnnxRuntime):
    name = "board"

    def load(self, artifact, signature, options, placement):
        session = super().load(artifact, signature, options, placement)
        session._session = Broken()
        return session
'''


@pytest.fixture
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The plug-in as pip would have installed it, for this process and its children."""
    site = tmp_path / "site"
    facts = site / "board-1.0.dist-info"
    facts.mkdir(parents=True)
    (site / "board.py").write_text(PLUG_IN)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: board\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[strop.engines]\nboard = board:Board\n")
    monkeypatch.syspath_prepend(site)
    kept = (plugins.names, plugins.find, plugins._entry_points)
    for function in kept:
        function.cache_clear()
    yield
    for function in kept:
        function.cache_clear()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("_installed")
def test_the_reason_is_told_and_the_search_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, patience=3)
    monkeypatch.setattr("strop.search.deliver._CURVE", (1,))
    settle_speed(monkeypatch, 1.0)
    request = Request(
        model=write_model(tmp_path / "digits.onnx"),
        data=write_data(tmp_path / "digits.npz"),
        within="3%",
        output=tmp_path / "out",
        budget=BUDGET,
        engines=["board", "onnxruntime"],
        techniques=["cleanup"],
        threads=1,
    )
    result = optimize(request).result
    tried = [trial for trial in result.trials if trial.recipe.deploy.engine == "board"]
    assert {trial.status for trial in tried} == {"failed"}
    plain = [trial for trial in tried if not trial.recipe.steps]
    assert plain
    assert all("CUDA failure 35: driver too old" in trial.reason for trial in plain)
    after = [trial for trial in result.trials if trial.number > plain[0].number]
    assert any(trial.recipe.deploy.engine == "onnxruntime" for trial in after)
    assert result.delivered.recipe.deploy.engine == "onnxruntime"
    assert result.claim is not None
    (row,) = (row for row in rows(result) if row.engine == "board")
    assert (row.status, "driver too old" in row.reason) == ("failed", True)
