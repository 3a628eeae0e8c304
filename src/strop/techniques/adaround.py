"""Learn for each weight whether to round up or down, all weights of a layer together.

AdaRound (Nagel et al., *Up or down? Adaptive rounding for post-training quantization*, ICML 2020):
a soft choice h between the integers below and above, the change of the layer's output as loss, and
a term that anneals every h to 0 or 1. The paper draws batches; here the loss is taken through the
second moments of what the layer reads, Δw·C·Δwᵀ (its equation 10), so that every step sees all
calibration rows, costs no pass over them, needs no seed and no autograd, and memory is what the
moments take.
"""

from __future__ import annotations

import numpy as np

from strop.techniques.calibration import check_deadline
from strop.techniques.quantisable import Layer

_GAMMA, _ZETA = -0.1, 1.1
"""The sigmoid is stretched so that it reaches 0 and 1 (section 3.3, after Louizos et al.)."""
_STEPS = (200, 1000)
"""Steps of the optimiser at least and at most."""
_WORK = 4e10
"""Floating point operations for which a layer may take more than the least number of steps.
Counted, not timed, so that the result is the same on every machine."""
_WARM_UP = 0.2
"""Share of the steps without annealing, as in the paper."""
_BETA = (20.0, 2.0)
_PUSH = 0.5
"""Weight of the annealing term, the loss being in units of a weight's step and mean moment."""
_RATE = 0.1


def adaptive(
    weight: np.ndarray,
    scales: np.ndarray,
    layer: Layer,
    covariance: np.ndarray,
    *,
    bits: int = 8,
    deadline: float | None = None,
) -> np.ndarray:
    """int8 weights of the shape of `weight`, each output channel in its own scale.

    No row changes its output more, by `covariance`, than it would rounded to nearest.

    Parameters
    ----------
    covariance
        float64[groups, fan_in, fan_in] of what the layer reads.

    Raises
    ------
    TimeoutError
        When `deadline` (`time.monotonic`) passes.
    """
    limit = 2 ** (bits - 1) - 1
    moved = np.moveaxis(weight, layer.channel_axis, 0)
    rows = moved.reshape(layer.groups, moved.shape[0] // layer.groups, -1).astype(np.float64)
    scaled = (rows / scales.astype(np.float64).reshape(layer.groups, -1, 1)).astype(np.float32)
    mean = np.einsum("gii->g", covariance) / covariance.shape[-1]
    moments = (covariance / np.maximum(mean, 1e-30)[:, None, None]).astype(np.float32)
    nearest = np.clip(np.round(scaled), -limit, limit)
    stored = np.clip(_learned(scaled, moments, deadline), -limit, limit)
    worse = _loss(stored - scaled, moments) > _loss(nearest - scaled, moments)
    stored = np.where(worse[..., None], nearest, stored)
    return np.moveaxis(stored.reshape(moved.shape), 0, layer.channel_axis).astype(np.int8)


def _learned(scaled: np.ndarray, moments: np.ndarray, deadline: float | None) -> np.ndarray:
    """Whole numbers for float32[groups, rows, fan_in] in steps."""
    below = np.floor(scaled)
    fraction = scaled - below
    span = _ZETA - _GAMMA
    choice = -np.log(span / (np.clip(fraction, 1e-3, 1 - 1e-3) - _GAMMA) - 1)
    first, second = np.zeros_like(choice), np.zeros_like(choice)
    steps = int(np.clip(_WORK / (2 * scaled.size * scaled.shape[-1]), *_STEPS))
    for step in range(steps):
        check_deadline(deadline)
        sigmoid = 1 / (1 + np.exp(-choice))
        stretched = sigmoid * span + _GAMMA
        up = np.clip(stretched, 0, 1)
        gradient = 2 * np.matmul(below + up - scaled, moments)
        done = step / steps
        if done > _WARM_UP:
            annealed = (done - _WARM_UP) / (1 - _WARM_UP)
            # The paper's cosine schedule: everything may move at first, at last nothing may.
            beta = _BETA[1] + (_BETA[0] - _BETA[1]) * (1 + np.cos(annealed * np.pi)) / 2
            off = 2 * up - 1
            gradient -= _PUSH * 2 * beta * np.abs(off) ** (beta - 1) * np.sign(off)
        gradient *= span * sigmoid * (1 - sigmoid) * ((stretched > 0) & (stretched < 1))
        first += 0.1 * (gradient - first)
        second += 0.001 * (gradient * gradient - second)
        ahead = 1 - 0.9 ** (step + 1), 1 - 0.999 ** (step + 1)
        choice -= _RATE * (first / ahead[0]) / (np.sqrt(second / ahead[1]) + 1e-8)
    result: np.ndarray = below + (1 / (1 + np.exp(-choice)) * span + _GAMMA >= 0.5)
    return result


def _loss(change: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """[groups, rows]: what the change of each row does to its output, squared and averaged."""
    loss: np.ndarray = (np.matmul(change, moments) * change).sum(axis=-1)
    return loss
