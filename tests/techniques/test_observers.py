from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import entropy

from strop.techniques.observers import Extremes, Histogram


def batches(rows: int = 40) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    # Each batch is wider than the one before, so that the range has to double.
    return [rng.normal(0.3, 0.5 * 1.2**i, (rows, 7, 3)).astype(np.float32) for i in range(12)]


def observed(parts: list[np.ndarray], bins: int = 8192) -> Histogram:
    histogram = Histogram(bins)
    for part in parts:
        histogram.update(part)
    return histogram


def test_extremes_are_those_of_all_data_by_channel() -> None:
    parts = batches()
    seen = Extremes(axis=1)
    for part in parts:
        seen.update(part)
    whole = np.concatenate(parts)
    assert np.array_equal(seen.low, whole.min((0, 2)))  # type: ignore[arg-type]
    assert np.array_equal(seen.magnitude(), np.abs(whole).max((0, 2)))


def test_minmax_is_exact_and_no_count_is_lost_in_doubling() -> None:
    parts = batches()
    histogram = observed(parts)
    whole = np.concatenate(parts)
    assert histogram.range("minmax") == (float(whole.min()), float(whole.max()))
    assert histogram.counts.sum() == whole.size
    edges = np.linspace(-histogram.limit, histogram.limit, histogram.counts.size + 1)
    direct = np.histogram(whole.astype(np.float64), edges)[0]
    # A value on the edge of a bin may fall on either side.
    assert np.abs(np.cumsum(direct) - np.cumsum(histogram.counts)).max() <= 2


def test_percentile_is_that_of_the_full_data_up_to_a_bin() -> None:
    parts = batches(rows=400)
    histogram = observed(parts)
    ordered = np.sort(np.concatenate(parts), axis=None)
    clipped = ordered.size // 10_000  # 0.01% on each side
    assert clipped == 10
    width = 2 * histogram.limit / histogram.counts.size
    low, high = histogram.range("percentile")
    assert ordered[clipped - 1] - width <= low <= ordered[clipped + 1] + width
    assert ordered[-clipped - 2] - width <= high <= ordered[-clipped] + width


def rounding_error(values: np.ndarray, low: float, high: float) -> float:
    step = (high - low) / 255
    zero = np.round(-low / step)
    restored = (np.clip(np.round(values / step) + zero, 0, 255) - zero) * step
    return float(np.mean((restored - values) ** 2))


def test_mse_beats_the_full_range_and_a_grid_over_the_full_data() -> None:
    values = np.random.default_rng(0).standard_t(3, 200_000)
    low, high = observed([values]).range("mse")
    found = rounding_error(values, low, high)
    assert found < 0.7 * rounding_error(values, values.min(), values.max())
    grid = [
        rounding_error(values, values.min() * a, values.max() * b)
        for a in np.linspace(0.05, 1, 20)
        for b in np.linspace(0.05, 1, 20)
    ]
    assert found <= 1.05 * min(grid)


@pytest.mark.parametrize("calibrator", ["minmax", "percentile", "mse"])
def test_ranges_hold_zero(calibrator: str) -> None:
    positive = Histogram()
    positive.update(np.linspace(2, 3, 1000))
    assert positive.range(calibrator)[0] == 0.0  # type: ignore[arg-type]
    nothing = Histogram()
    nothing.update(np.zeros(5))
    assert nothing.range(calibrator) == (0.0, 0.0)  # type: ignore[arg-type]


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        Histogram().update(np.array([1.0, np.inf]))


def test_thinning_keeps_the_extremes_and_the_shape() -> None:
    values = np.random.default_rng(2).normal(size=100_000)
    thin, full = Histogram(sample=5_000), Histogram()
    thin.update(values)
    full.update(values)
    assert thin.range("minmax") == full.range("minmax")
    assert thin.counts.sum() <= 5_000
    assert thin.range("mse") == pytest.approx(full.range("mse"), rel=0.1)


def test_entropy_clips_where_a_plain_transcription_of_the_method_does() -> None:
    values = np.random.default_rng(3).standard_t(3, 20000).astype(np.float32)
    seen = Histogram(bins=2048)
    seen.update(values)
    low, high = seen.range("entropy")
    assert -low == high < np.abs(values).max()  # a heavy tail is clipped, on both sides alike
    half = seen.counts.size // 2
    bins = np.array([seen.counts[half + i] + seen.counts[half - 1 - i] for i in range(half)], float)
    bins[0] = bins[1]

    def loss(end: int) -> float:
        sums, full = np.zeros(128), np.zeros(128)
        for i in range(end):
            sums[i * 128 // end] += bins[i]
            full[i * 128 // end] += bins[i] > 0
        told = [sums[i * 128 // end] / full[i * 128 // end] if bins[i] else 0 for i in range(end)]
        inside = bins[:end].copy()
        inside[-1] += bins[end:].sum()
        return float(entropy(inside, told))

    assert loss(round(high * half / seen.limit)) < 1.05 * min(map(loss, range(128, half, 17)))


def test_entropy_of_positive_values_starts_at_zero_and_zeros_do_not_decide() -> None:
    values = np.abs(np.random.default_rng(3).standard_normal(20000)).astype(np.float32)
    seen, sparse = Histogram(), Histogram()
    seen.update(values)
    sparse.update(np.concatenate([values, np.zeros(10**6, np.float32)]))
    assert seen.range("entropy")[0] == 0.0
    assert sparse.range("entropy")[1] == pytest.approx(seen.range("entropy")[1], rel=0.2)


def test_entropy_of_nothing_but_zeros_is_nothing() -> None:
    seen = Histogram()
    seen.update(np.zeros(10, np.float32))
    assert seen.range("entropy") == (0.0, 0.0)
    one = Histogram()
    one.update(np.full(10, 2.0, np.float32))
    assert one.range("entropy") == (0.0, 2.0)
