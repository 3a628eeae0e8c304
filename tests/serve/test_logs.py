"""What the log has of what is said through `logging`."""

from __future__ import annotations

import io
import json
import logging

import pytest

from strop.serve.logs import Log, records_in


def test_warnings_and_errors_of_modules_are_events_like_all_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)  # whatever the libraries of earlier tests made of it
    stream = io.StringIO()
    said = logging.getLogger("strop.serve")
    with records_in(Log(stream, plain=False)):
        said.warning("'%s' is\nslow", "m")
        logging.getLogger("of.a.library").error("broken")
        try:
            raise RuntimeError("deep inside")
        except RuntimeError:
            said.exception("it failed")
        said.info("nothing of it")
    said.warning("afterwards")
    lines = [json.loads(text) for text in stream.getvalue().splitlines()]
    assert [(it["event"], it["level"], it["logger"], it["message"]) for it in lines] == [
        ("message", "warning", "strop.serve", "'m' is\nslow"),
        ("message", "error", "of.a.library", "broken"),
        ("message", "error", "strop.serve", "it failed"),
    ]
    assert "deep inside" in lines[2]["trace"]
    assert "trace" not in lines[0]
