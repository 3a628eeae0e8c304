from __future__ import annotations

import numpy as np
import pytest

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
