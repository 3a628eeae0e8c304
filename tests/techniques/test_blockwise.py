from __future__ import annotations

import itertools

import numpy as np
import pytest

from strop.techniques.blockwise import quantise_blocks

from .small_graphs import floats


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_without_a_search_it_is_the_textbook_formula(bits: int, symmetric: bool) -> None:
    weight = floats(5, 40)
    found = quantise_blocks(weight, bits=bits, block=16, symmetric=symmetric, search=False)
    assert found.stored.shape == (5, 40)
    assert found.scales.shape == (5, 3)
    assert found.symmetric is symmetric
    for row, start in itertools.product(range(5), range(0, 40, 16)):
        block = weight[row, start : start + 16].astype(np.float64)
        if symmetric:
            step, zero = np.abs(block).max() / (2 ** (bits - 1) - 1), 2 ** (bits - 1)
        else:
            low, high = min(block.min(), 0), max(block.max(), 0)
            step = (high - low) / (2**bits - 1)
            zero = round(-low / step)
        expected = (np.clip(np.round(block / step) + zero, 0, 2**bits - 1) - zero) * step
        # A value between two steps may fall to either side in float32.
        off = np.abs(found.real()[row, start : start + 16] - expected)
        assert np.all((off < 1e-5) | (np.abs(off - step) < 1e-5))
        assert np.mean(off < 1e-5) > 0.9


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_search_is_at_least_as_good_as_every_range_that_it_could_take(symmetric: bool) -> None:
    weight = np.random.default_rng(1).standard_t(3, (6, 32)).astype(np.float32)
    found = quantise_blocks(weight, bits=4, block=32, symmetric=symmetric).real()
    for row in range(6):
        values = weight[row].astype(np.float64)
        low, high = min(values.min(), 0.0), max(values.max(), 0.0)
        least = np.inf
        for share in np.linspace(1.0, 0.6, 17):
            if symmetric:
                step, zero = share * max(-low, high) / 7, 8.0
            else:
                step = share * (high - low) / 15
                zero = np.clip(np.round(-low * share / step), 0, 15)
            real = (np.clip(np.round(values / step) + zero, 0, 15) - zero) * step
            least = min(least, float(((real - values) ** 2).sum()))
        assert float(((found[row] - values) ** 2).sum()) <= least * (1 + 1e-4)


def test_weights_that_meet_large_values_are_kept_better() -> None:
    weight = floats(64, 32, seed=2)
    loud = np.where(np.arange(32) < 4, 100.0, 1.0)
    plain = quantise_blocks(weight, bits=4, block=32, symmetric=False)
    aware = quantise_blocks(weight, bits=4, block=32, symmetric=False, moments=np.diag(loud))

    def cost(real: np.ndarray) -> float:
        return float((loud * (real - weight).astype(np.float64) ** 2).sum())

    assert cost(aware.real()) < 0.8 * cost(plain.real())


def test_compensation_changes_products_less() -> None:
    x = floats(400, 24, seed=3) @ (floats(24, 24, seed=4) * np.logspace(0, -2, 24)[:, None])
    weight = floats(16, 24, seed=5)
    moments = x.T.astype(np.float64) @ x / len(x)

    def cost(real: np.ndarray) -> float:
        return float(((x @ (real - weight).T) ** 2).sum())

    nearest = quantise_blocks(weight, bits=4, block=16, symmetric=False)
    better = quantise_blocks(weight, bits=4, block=16, symmetric=False, moments=moments)
    assert better.stored.max() <= 15
    assert cost(better.real()) < 0.6 * cost(nearest.real())


def test_rows_of_zeros_and_constants_survive() -> None:
    weight = np.stack([np.zeros(32), np.full(32, 3.0), np.full(32, -3.0)]).astype(np.float32)
    for symmetric in (True, False):
        found = quantise_blocks(weight, bits=4, block=16, symmetric=symmetric)
        np.testing.assert_allclose(found.real(), weight, rtol=1e-6)
