from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from strop.benching.logs import figures, latencies
from strop.errors import StropError


def _line(key: str, value: object, *, error: bool = False) -> str:
    entry = {"key": key, "value": value, "metadata": {"is_error": error}}
    return f":::MLLOG {json.dumps(entry)}"


def test_the_last_value_counts_and_errors_are_kept(tmp_path: Path) -> None:
    lines = [
        _line("result_validity", "INVALID"),
        "noise of another kind",
        _line("result_validity", "VALID"),
        _line("generic_error", "a sample came twice", error=True),
    ]
    (tmp_path / "mlperf_log_detail.txt").write_text("\n".join(lines))
    found = figures(tmp_path)
    assert found["result_validity"] == "VALID"
    assert found["errors"] == ["generic_error: a sample came twice"]


def test_a_run_without_result_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mlperf_log_detail.txt").write_text(_line("test_datetime", "now"))
    with pytest.raises(StropError, match="without a result"):
        figures(tmp_path)


def test_a_query_lasts_until_its_last_sample(tmp_path: Path) -> None:
    def sample(number: int, query: int, done: int) -> str:
        return (
            f'{{"name":"Sample","ph":"b","id":{number},"ts":1.0,"args":{{"sample_seq":{number},'
            f'"query_seq":{query},"sample_idx":3,"issue_start_ns":80,"complete_ns":{done}}}}},'
        )

    lines = [
        '{"traceEvents":[',
        sample(0, 0, 1_000),
        sample(1, 0, 3_000),
        sample(2, 1, 2_000),
        '{"name":"Sample","ph":"e","id":0,"ts":2.0},',
    ]
    (tmp_path / "mlperf_log_trace.json").write_text("\n".join(lines))
    np.testing.assert_allclose(np.sort(latencies(tmp_path)), [2e-6, 3e-6])
