from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from strop.techniques.adaround import adaptive
from strop.techniques.qdq import quantise_weight, weight_scales
from strop.techniques.quantisable import Layer
from strop.techniques.rounding import compensated

from .small_graphs import floats


def correlated(groups: int, fan_in: int, reach: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((groups, fan_in, fan_in)) * np.logspace(0, reach, fan_in)
    found: np.ndarray = mixing @ mixing.transpose(0, 2, 1)
    return found


def layer(axis: int = 0, groups: int = 1) -> Layer:
    return Layer("a", "Gemm", "x", "w", None, "y", "y", axis, groups)


def losses(
    stored: np.ndarray, weight: np.ndarray, scales: np.ndarray, moments: np.ndarray, axis: int = 0
) -> np.ndarray:
    along = [-1 if i == axis else 1 for i in range(2)]
    change = np.moveaxis(stored * scales.astype(np.float64).reshape(along) - weight, axis, 0)
    groups, fan_in, _ = moments.shape
    rows = change.reshape(groups, -1, fan_in)
    found: np.ndarray = np.einsum("goi,gij,goj->go", rows, moments, rows)
    return found


@pytest.mark.parametrize(("groups", "axis"), [(1, 0), (4, 0), (1, 1)])
def test_no_row_is_worse_than_nearest_and_all_are_much_better(groups: int, axis: int) -> None:
    weight = floats(16, 24, seed=1)
    weight = weight if axis == 0 else weight.T.copy()
    moments = correlated(groups, 24, -2)
    scales = weight_scales(weight, axis, bits=4)
    found = adaptive(weight, scales, layer(axis, groups), moments, bits=4)
    assert found.dtype == np.int8
    assert found.shape == weight.shape
    assert np.abs(found).max() <= 7
    nearest = quantise_weight(weight, scales, axis, bits=4)
    before = losses(nearest, weight, scales, moments, axis)
    after = losses(found, weight, scales, moments, axis)
    assert np.all(after <= before * (1 + 1e-3))
    assert after.sum() < 0.4 * before.sum()


def test_it_comes_near_the_best_of_all_choices() -> None:
    weight = floats(12, 8, seed=2)
    moments = correlated(1, 8, -1)
    scales = weight_scales(weight, 0)
    below = np.floor(weight / scales[:, None])
    best = np.full(12, np.inf)
    for choice in itertools.product((0, 1), repeat=8):
        stored = np.clip(below + np.array(choice), -127, 127)
        best = np.minimum(best, losses(stored, weight, scales, moments)[0])
    nearest = losses(quantise_weight(weight, scales, 0), weight, scales, moments).sum()
    found = losses(adaptive(weight, scales, layer(), moments), weight, scales, moments).sum()
    assert found < best.sum() + 0.25 * (nearest - best.sum())


def test_it_rounds_up_or_down_and_nowhere_else() -> None:
    weight = floats(8, 12)
    scales = weight_scales(weight, 0)
    found = adaptive(weight, scales, layer(), correlated(1, 12, -1))
    assert np.all(np.abs(found - weight / scales[:, None]) < 1 + 1e-5)
    white = adaptive(weight, scales, layer(), np.eye(12)[None])
    assert np.array_equal(white, quantise_weight(weight, scales, 0))


def test_it_keeps_up_with_compensated_rounding_in_few_bits() -> None:
    weight, moments = floats(32, 64, seed=3), correlated(1, 64, -1)
    scales = weight_scales(weight, 0, bits=4)
    other = compensated(weight, scales, layer(), moments, bits=4)
    found = adaptive(weight, scales, layer(), moments, bits=4)
    ours, theirs = (losses(q, weight, scales, moments).sum() for q in (found, other))
    assert ours < 1.25 * theirs


def test_a_passed_deadline_ends_it() -> None:
    weight = floats(8, 12)
    with pytest.raises(TimeoutError):
        adaptive(
            weight,
            weight_scales(weight, 0),
            layer(),
            np.eye(12)[None],
            deadline=time.monotonic() - 1,
        )
