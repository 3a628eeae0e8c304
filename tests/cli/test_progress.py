"""What a search says where nobody watches a table: one line an event, and a sign of life."""

from __future__ import annotations

import pytest

from strop.cli import progress
from strop.records import StageEntered


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_has_passing_remarks_only_after_a_long_silence(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.progress_view(600.0) as view:
        view.hear(StageEntered(stage="race"))
        clock[0] += 29.0
        view.say("epoch 0.4 of 3")
        clock[0] += 2.0
        view.say("epoch 0.6 of 3")
        clock[0] += 29.0
        view.say("epoch 0.8 of 3")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("] ", 1)[1] for line in lines] == ["race", "epoch 0.6 of 3"]
    assert lines[-1].startswith("[  31.0s]")


def test_a_log_says_at_once_that_something_is_done(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.progress_view(600.0) as view:
        view.say("reading the model")
        view.say("reading the examples")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("] reading the model")
