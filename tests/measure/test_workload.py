"""The whole room on a real engine, with the models that it makes for itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from strop.measure import curve, pair, peak, peaks, screen, speedup, summarise, throughput, workload

QUICK = {"warmup_seconds": 0.05}


@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_a_product_is_what_its_name_says(tmp_path: Path, kind: workload.Kind) -> None:
    from onnx import load, numpy_helper

    from strop.engines import open_session

    spec, inputs = workload.matmul(tmp_path, size=32, threads=1, kind=kind)
    outputs = open_session(spec).run(inputs)
    weights = numpy_helper.to_array(load(spec.artifact).graph.initializer[0])
    expected = inputs["x"].astype(np.float64) @ weights.astype(np.float64)
    assert outputs["y"].dtype == ("float32" if kind == "fp32" else "int32")
    np.testing.assert_allclose(outputs["y"], expected, rtol=1e-5, atol=1e-4)


def test_a_real_session_is_timed(tmp_path: Path) -> None:
    spec, inputs = workload.matmul(tmp_path, size=64, threads=1)
    timing = pair(spec, spec, inputs, launches=2, quads=1, seconds_per_block=0.01, **QUICK)
    assert speedup(timing, "itself").ratio.low > 0
    latency = summarise(timing.b_seconds, batch=timing.batch, threads=1)
    assert latency.batch == 64 and 0 < latency.p50.estimate <= latency.p99.estimate
    screened = screen({"one": spec, "two": spec}, inputs, rounds=2, seconds=0.01, **QUICK)
    assert screened["two"].ratio > 0
    assert len(curve(spec, {64: inputs}, seconds=0.01, **QUICK)) == 1
    assert throughput(spec, inputs, streams=2, seconds=0.02, rounds=1, **QUICK).calls > 0


def test_the_engine_and_the_weights_count_as_memory(tmp_path: Path) -> None:
    spec, inputs = workload.matmul(tmp_path, size=2048, threads=1)
    assert peak(spec, inputs) > 2048 * 2048 * 4


def test_peaks_are_measured() -> None:
    found = peaks(threads=1, rounds=1)
    # Slower than any machine that runs this, and faster than any: only a wrong unit fails.
    assert 1e7 < found.fp32 < 1e14
    assert 1e7 < found.int8 < 1e15
    assert 1e7 < found.bandwidth < 1e13
    assert found.threads == 1
