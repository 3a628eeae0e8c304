"""LoadGen on a small bundle, from the command line and from Python."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from strop.benching import Bench, bench
from strop.benching import jobs as bench_jobs
from strop.cli.app import app
from strop.errors import BundleError, DataError, InputError, MissingExtra


def _needs_loadgen() -> None:
    pytest.importorskip("mlperf_loadgen")


@pytest.fixture(autouse=True)
def _short_paces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strop.benching.benching._PACE_SECONDS", 0.1)


def test_scenarios_from_the_command_line(bundle: Path) -> None:
    _needs_loadgen()
    line = ["bench", str(bundle), "--scenario", "single-stream", "--scenario", "MultiStream"]
    line += ["--scenario", "offline", "--min-duration", "500ms", "--threads", "1", "--json"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code in (0, 3), done.output
    found = Bench.from_dict(json.loads(done.stdout))
    single, multi, offline = found.scenarios
    assert (found.samples, found.batch, found.streams) == (4, 32, 1)
    assert single.valid and single.checks.min_duration and single.queries >= 100
    assert single.samples == single.queries and single.value is not None
    assert single.percentiles["50"] <= single.percentiles["99"]
    assert single.histogram is not None and sum(single.histogram.counts) == single.queries
    # The histogram and the percentiles are of the same latencies.
    low, high = single.histogram.edges[0], single.histogram.edges[-1]
    assert low <= single.percentiles["50"] <= high
    assert multi.samples == 8 * multi.queries
    assert offline.queries == 1 and offline.value is not None and offline.histogram is None
    # Its rate is that of LoadGen's clock, which runs for a part of the seconds in all.
    assert offline.value >= offline.samples / offline.seconds
    assert offline.checks.min_duration == (offline.samples / offline.value >= 0.5)
    assert done.exit_code == (0 if all(one.valid for one in found.scenarios) else 3)


def test_the_server_keeps_a_rate_that_is_easy_and_not_one_that_is_not(bundle: Path) -> None:
    _needs_loadgen()
    # LoadGen sends them when they are due; a busy machine may take much longer to answer them.
    found = bench(bundle, scenarios=["Server"], slo=100.0, rate=2000.0, min_duration=0.5, threads=1)
    (one,) = found.scenarios
    assert one.valid and one.slo_kept and one.rate == 2000 and one.checks.latency
    found = bench(bundle, scenarios=["Server"], slo=1e-6, rate=2000.0, min_duration=0.5, threads=1)
    (one,) = found.scenarios
    assert not one.valid and one.slo_kept is False and one.checks.latency is False
    assert one.why


def test_loadgens_own_words_are_kept(bundle: Path, tmp_path: Path) -> None:
    _needs_loadgen()
    logs = tmp_path / "logs"
    found = bench(bundle, scenarios=["SingleStream"], min_duration=0.2, threads=1, logs=logs)
    kept = {path.name for path in (logs / "SingleStream").iterdir()}
    assert {"mlperf_log_summary.txt", "mlperf_log_detail.txt"} <= kept
    assert "mlperf_log_trace.json" not in kept
    summary = (logs / "SingleStream" / "mlperf_log_summary.txt").read_text()
    (one,) = found.scenarios
    assert f"Result is : {'VALID' if one.valid else 'INVALID'}" in summary
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="logs cannot be written"):
        bench(bundle, scenarios=["SingleStream"], logs=tmp_path / "file")


def test_examples_may_be_given(bundle: Path, examples: Path) -> None:
    _needs_loadgen()
    found = bench(bundle, examples, scenarios=["SingleStream"], min_duration=0.2, threads=1)
    assert found.samples == 400
    assert "10m" not in "".join(found.notes) and "600 s" in found.notes[0]


def test_a_session_that_fails_under_load_is_an_error_not_a_result(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _needs_loadgen()
    from strop.errors import StropError

    class Failing:
        def run(self, arrays: dict[str, np.ndarray]) -> None:
            raise StropError("no more")

    monkeypatch.setattr(bench_jobs, "_session", Failing())
    monkeypatch.setattr(bench_jobs, "_samples", {"x": np.zeros((4, 6), np.float32)})
    with pytest.raises(StropError, match="failed under load: no more"):
        bench_jobs.run(
            "SingleStream", {"min_duration_ms": 10, "min_query_count": 10}, 1, 1, trace=False
        )


def test_without_loadgen_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlperf_loadgen", None)
    with pytest.raises(MissingExtra, match=r"strop\[bench\]"):
        bench_jobs.load({}, {})


def test_bad_input(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no scenario 'Batch'"):
        bench(bundle, scenarios=["Batch"])  # type: ignore[list-item]
    for wrong in ({"slo": -1.0}, {"rate": 0.0}, {"min_duration": float("inf")}, {"batch": 0}):
        with pytest.raises(InputError):
            bench(bundle, **wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError):
        bench(bundle, tmp_path / "none.npz")
    with pytest.raises((InputError, BundleError)):
        bench(tmp_path)
    (bundle / "model" / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(BundleError, match="damaged"):
        bench(bundle)
    done = CliRunner().invoke(app, ["bench", str(bundle), "--scenario", "burst"])
    assert "no scenario 'burst'" in str(done.exception)
