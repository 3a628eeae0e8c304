"""Pass to strop as `--metric metric.py:fn`: whether the pitch is right within 50 cents."""

from collections.abc import Mapping

import numpy as np

BINS, CENTS_PER_BIN, LOWEST = 360, 20, 1997.3794084376191  # cents above 10 Hz
RIGHT_WITHIN = 50.0  # half a semitone: raw pitch accuracy as in Poliner et al. (2007)


def fn(outputs: Mapping[str, np.ndarray], target: np.ndarray) -> np.ndarray:
    """1 or 0 for each frame: salience float[n, 360] against target float[n], cents above 10 Hz."""
    (salience,) = outputs.values()
    return np.abs(cents(salience) - target) <= RIGHT_WITHIN


def cents(salience: np.ndarray) -> np.ndarray:
    """Mean over the nine bins around the highest one, as CREPE decodes (Kim et al., 2018)."""
    best = salience.argmax(1)
    near = np.clip(best[:, None] + np.arange(-4, 5), 0, BINS - 1)
    inside = near == best[:, None] + np.arange(-4, 5)  # at the ends there are fewer than nine
    weights = np.where(inside, np.take_along_axis(salience, near, axis=1), 0.0)
    total = np.maximum(weights.sum(1), 1e-12)
    return (weights * (LOWEST + CENTS_PER_BIN * near)).sum(1) / total


fn.kind = "binary"
