"""Prometheus' text: well formed, and equal to what was done."""

from __future__ import annotations

import asyncio
import re

import numpy as np
import pytest

from strop.serve.core import Core
from strop.serve.errors import ServeError
from strop.serve.metrics import metrics_text
from strop.serve.request import InferRequest
from strop.serve.settings import ModelSettings

from . import fakes

_SAMPLE = re.compile(r"([a-z_]+)(?:\{([^}]*)\})? ([0-9.e+-]+)")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """After five good requests of two rows (one of them twice, cached) and three bad ones."""
    path = fakes.scaling(tmp_path_factory.mktemp("m") / "affine.onnx")

    async def main() -> str:
        core = Core()
        settings = ModelSettings(path=path, threads=1, slo=5.0, cache_bytes=1 << 20)
        await core.repository.load("affine", settings)
        await core.repository.load("other", ModelSettings(path=path, threads=1))
        for number in (0, 1, 2, 3, 3):
            await core.infer(InferRequest("affine", {"x": np.full((2, 4), number, np.float32)}))
        for model, width in (("affine", 3), ("affine", 5), ("absent", 4)):
            with pytest.raises(ServeError):
                await core.infer(InferRequest(model, {"x": np.zeros((1, width), np.float32)}))
        await core.repository.unload("other")
        found = metrics_text(core).decode()
        await core.drain(1.0)
        return found

    return asyncio.run(main())


def samples(text: str) -> dict[tuple[str, str], float]:
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = _SAMPLE.fullmatch(line)
            assert match is not None, line
            key = (match[1], match[2] or "")
            assert key not in found, line
            found[key] = float(match[3])
    return found


LABELS = 'model="affine",version="1"'


def test_every_family_has_help_and_type_before_its_samples(text: str) -> None:
    assert text.endswith("\n")
    kinds: dict[str, str] = {}
    helped = set()
    for line in text.splitlines():
        if line.startswith("# HELP "):
            helped.add(line.split()[2])
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name in helped and name not in kinds
            kinds[name] = kind
        else:
            name = re.split(r"[{ ]", line)[0]
            family = re.sub(r"_(bucket|sum|count)$", "", name)
            assert kinds.get(name) or kinds.get(family) == "histogram", line
    assert set(kinds.values()) == {"counter", "gauge", "histogram"}


def test_counts_are_those_of_what_was_done(text: str) -> None:
    found = samples(text)
    assert found["nv_inference_request_success", LABELS] == 5
    assert found["nv_inference_request_failure", LABELS] == 2
    assert found["nv_inference_count", LABELS] == 8
    assert found["nv_inference_exec_count", LABELS] == 4
    assert found["nv_inference_pending_request_count", LABELS] == 0
    assert found["nv_cache_num_hits_per_model", LABELS] == 1
    assert found["nv_cache_num_misses_per_model", LABELS] == 4
    assert found["nv_inference_request_duration_us", LABELS] > 0
    assert found["strop_rejections_total", f'{LABELS},reason="invalid"'] == 2
    assert found["strop_rejections_total", 'model="",version="",reason="unknown"'] == 1
    assert found["strop_slo_seconds", LABELS] == 5.0
    assert found["process_resident_memory_bytes", ""] > 1e7


def test_histograms_are_cumulative_and_add_up(text: str) -> None:
    found = samples(text)
    for name, count in (("strop_request_seconds", 5), ("strop_batch_rows", 4)):
        buckets = [
            value
            for (key, labels), value in found.items()
            if key == f"{name}_bucket" and labels.startswith(LABELS)
        ]
        assert buckets == sorted(buckets)
        assert buckets[-1] == found[f"{name}_count", LABELS] == count
    assert found["strop_batch_rows_sum", LABELS] == 8
    assert found["strop_batch_rows_bucket", f'{LABELS},le="1.0"'] == 0
    assert found["strop_batch_rows_bucket", f'{LABELS},le="2.0"'] == 4
    assert found["strop_batch_rows_bucket", f'{LABELS},le="+Inf"'] == 4


def test_what_is_unloaded_says_so(text: str) -> None:
    found = samples(text)
    assert found["strop_model_ready", LABELS] == 1
    assert found["strop_model_ready", 'model="other",version="1"'] == 0
    assert ("nv_inference_request_success", 'model="other",version="1"') not in found
