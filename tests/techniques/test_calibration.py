from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from strop.techniques.calibration import (
    chunks_of,
    digest_of,
    element_counts,
    sample_rows,
    watch,
)
from strop.techniques.folding import prepare
from strop.techniques.observers import Extremes, Histogram

from . import small_graphs as small


class Recorder:
    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def update(self, values: np.ndarray) -> None:
        self.seen.append(values)


def test_rows_are_a_seeded_permutation() -> None:
    rows = sample_rows(500, 100, seed=3)
    assert len(set(rows.tolist())) == 100
    assert np.array_equal(rows, sample_rows(500, 100, seed=3))
    assert not np.array_equal(rows, sample_rows(500, 100, seed=4))
    assert not np.array_equal(rows, np.sort(rows))


def test_digest_tells_content_order_and_dtype_apart() -> None:
    x = np.arange(6, dtype=np.float32)
    digests = {
        digest_of(lambda: [{"x": x}]),
        digest_of(lambda: [{"x": x[::-1]}]),
        digest_of(lambda: [{"x": x.astype(np.float64)}]),
        digest_of(lambda: [{"y": x}]),
    }
    assert len(digests) == 4
    assert digest_of(lambda: [{"x": x}]) == digest_of(lambda: [{"x": x.copy()}])


def test_every_tensor_is_seen_whatever_the_chunks(tmp_path: Path) -> None:
    proto = prepare(small.proto_of(small.conv_net(tmp_path)))
    rows = small.floats(6, 3, 8, 8)

    def batches() -> Iterator[dict[str, np.ndarray]]:
        yield {"image": rows[:4]}
        yield {"image": rows[4:]}

    names = ["image", "r1", "c2", "logits"]
    counts = element_counts(proto, names, next(batches()))
    assert counts == {"image": 4 * 192, "r1": 4 * 1024, "c2": 4 * 32 * 36, "logits": 40}
    results = []
    for chunk_bytes in (1, 1 << 30):
        recorders = {name: Recorder() for name in names}
        watch(proto, {k: [v] for k, v in recorders.items()}, batches, chunk_bytes=chunk_bytes)
        results.append({k: np.concatenate(v.seen) for k, v in recorders.items()})
    for name in names:
        assert len(results[0][name]) == 6
        np.testing.assert_allclose(results[0][name], results[1][name], rtol=1e-5, atol=1e-5)
    assert np.array_equal(results[0]["image"], rows)
    np.testing.assert_allclose(results[0]["r1"].min(), 0)


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    proto = prepare(small.proto_of(small.conv_net(tmp_path)))
    batch = {"image": small.floats(8, 3, 8, 8)}

    def peak(count: int) -> int:
        histograms = {name: [Histogram()] for name in ("image", "r1", "c2")}
        tracemalloc.start()
        watch(proto, histograms, lambda: (batch for _ in range(count)))
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(1)
    assert peak(60) < 1.2 * peak(3) + 50_000


def test_the_deadline_holds(tmp_path: Path) -> None:
    proto = prepare(small.proto_of(small.conv_net(tmp_path)))
    batch = {"image": small.floats(1, 3, 8, 8)}
    with pytest.raises(TimeoutError):
        watch(proto, {"r1": [Extremes(1)]}, lambda: [batch], deadline=time.monotonic() - 1)


def test_chunks_hold_at_most_the_limit() -> None:
    chunks = chunks_of({str(i): i for i in range(10)}, 12)
    assert [name for chunk in chunks for name in chunk] == [str(i) for i in range(10)]
    assert all(sum(map(int, chunk)) <= 12 for chunk in chunks)
