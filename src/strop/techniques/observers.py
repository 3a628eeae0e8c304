"""Streaming statistics of a tensor, and the range that each calibrator reads from them.

Memory does not grow with the number of rows.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Calibrator = Literal["minmax", "percentile", "mse", "entropy"]

PERCENTILE = 99.99
"""Share of the values, in percent, that stay unclipped on each side."""

_THRESHOLDS = 128
"""How many clipping points the entropy calibrator tries."""


class Extremes:
    """Running minimum and maximum of each channel.

    Examples
    --------
    >>> seen = Extremes(axis=1)
    >>> seen.update(np.array([[1.0, -2.0], [3.0, 0.0]]))
    >>> seen.low, seen.high
    (array([ 1., -2.]), array([3., 0.]))
    """

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.low: np.ndarray | None = None
        self.high: np.ndarray | None = None

    def update(self, values: np.ndarray) -> None:
        axis = self.axis % values.ndim
        others = tuple(index for index in range(values.ndim) if index != axis)
        low, high = values.min(axis=others), values.max(axis=others)
        self.low = low if self.low is None else np.minimum(self.low, low)
        self.high = high if self.high is None else np.maximum(self.high, high)

    def magnitude(self) -> np.ndarray:
        """The greatest absolute value of each channel."""
        if self.low is None or self.high is None:
            raise ValueError("nothing was observed")
        greatest: np.ndarray = np.maximum(np.abs(self.low), np.abs(self.high))
        return greatest


class Histogram:
    """Counts of a tensor's values over a range that doubles when a value falls outside.

    The range is symmetric about zero and doubling merges bins in pairs, so that counts stay
    exact: the result depends on the rows only through the first batch's range.

    Parameters
    ----------
    bins
        Number of bins over both signs; a multiple of 4.
    sample
        Values counted of one update at most; more are thinned by a fixed stride. The minimum
        and maximum are always those of all values.
    """

    def __init__(self, bins: int = 8192, sample: int = 1 << 18) -> None:
        if bins % 4:
            raise ValueError(f"bins is {bins}, which is not a multiple of 4")
        self.counts = np.zeros(bins, np.int64)
        self.limit = 0.0
        self.low = np.inf
        self.high = -np.inf
        self._sample = sample

    def update(self, values: np.ndarray) -> None:
        """Count `values` (any shape, finite)."""
        flat = values.ravel()
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        if not np.isfinite(low) or not np.isfinite(high):
            raise ValueError("the tensor holds values that are not finite")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._cover(max(abs(low), abs(high)))
        if self.limit == 0.0:
            self.counts[self.counts.size // 2] += flat.size
            return
        # An odd stride, so that thinning does not always hit the same column of an image.
        stride = -(-flat.size // self._sample) | 1 if flat.size > self._sample else 1
        scaled = (flat[::stride].astype(np.float64) + self.limit) * (
            self.counts.size / (2 * self.limit)
        )
        index = np.minimum(scaled.astype(np.int64), self.counts.size - 1)
        self.counts += np.bincount(index, minlength=self.counts.size)

    def range(self, calibrator: Calibrator, *, levels: int = 256) -> tuple[float, float]:
        """The interval to represent, which always holds zero.

        ``minmax`` is all that was seen; ``percentile`` leaves `PERCENTILE` of the values
        unclipped on each side; ``mse`` minimises the expected squared error of rounding and
        clipping over intervals shrunk on either side; ``entropy`` clips magnitudes where the
        distribution that the levels can tell apart diverges least from what was seen (Migacz,
        *8-bit inference with TensorRT*, GTC 2017).
        """
        if not np.isfinite(self.low):
            raise ValueError("nothing was observed")
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        if calibrator == "minmax" or self.limit == 0.0:
            return low, high
        if calibrator == "percentile":
            return (
                min(max(self._quantile(1 - PERCENTILE / 100), low), 0.0),
                max(min(self._quantile(PERCENTILE / 100), high), 0.0),
            )
        if calibrator == "entropy":
            threshold = self._least_divergence(levels if low == 0.0 else levels // 2)
            return max(low, -threshold), min(high, threshold)
        return self._least_squares(low, high, levels)

    def _cover(self, magnitude: float) -> None:
        if magnitude <= self.limit:
            return
        if self.limit == 0.0:
            # Zeros counted so far sit in the bin right of the middle, which stays zero's bin.
            self.limit = magnitude
            return
        bins = self.counts.size
        while self.limit < magnitude:
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(bins, np.int64)
            self.counts[bins // 4 : bins // 4 + bins // 2] = merged
            self.limit *= 2

    def _edges(self) -> np.ndarray:
        return np.linspace(-self.limit, self.limit, self.counts.size + 1)

    def _quantile(self, share: float) -> float:
        cumulative = np.concatenate([[0], np.cumsum(self.counts)]) / self.counts.sum()
        return float(np.interp(share, cumulative, self._edges()))

    def _least_squares(self, low: float, high: float, levels: int) -> tuple[float, float]:
        edges = self._edges()
        used = np.flatnonzero(self.counts)
        centres = (edges[used] + edges[used + 1]) / 2
        weights = self.counts[used].astype(np.float64)

        def error(low: float, high: float) -> float:
            step = (high - low) / (levels - 1)
            zero = np.round(-low / step)
            rounded = (np.clip(np.round(centres / step) + zero, 0, levels - 1) - zero) * step
            return float(weights @ (rounded - centres) ** 2)

        best, least = (low, high), error(low, high)
        for _ in range(2):  # one side, the other side, once more: the sides barely interact
            for side in (0, 1):
                for share in np.linspace(1.0, 0.2, 65)[1:]:
                    candidate = (low * share, best[1]) if side == 0 else (best[0], high * share)
                    if candidate[1] - candidate[0] <= 0:
                        continue
                    loss = error(*candidate)
                    if loss < least:
                        best, least = candidate, loss
        return best

    def _least_divergence(self, levels: int) -> float:
        """The magnitude to clip at, of `_THRESHOLDS` that are tried."""
        half = self.counts.size // 2
        counts = (self.counts[half:] + self.counts[:half][::-1]).astype(np.float64)
        # Zeros are exact whatever the scale: how many there are must not decide.
        counts[0] = counts[1]
        filled = np.flatnonzero(counts)
        if not filled.size:  # all in the first bin
            return float(self.limit / half)
        used = int(filled[-1]) + 1
        ends = np.linspace(min(levels, used), used, _THRESHOLDS).astype(np.int64)
        # What is clipped joins the last bin kept, which must not have been empty.
        ends = np.unique(filled[np.maximum(np.searchsorted(filled, ends) - 1, 0)] + 1)
        losses = [_divergence(counts, int(end), levels) for end in ends]
        best = int(ends[len(ends) - 1 - int(np.argmin(losses[::-1]))])  # of equals the widest
        return float(best * self.limit / half)


def _divergence(counts: np.ndarray, end: int, levels: int) -> float:
    """KL(seen ‖ told apart) when all beyond bin `end` is clipped and the rest has `levels`."""
    inside = counts[:end]
    level = np.minimum(np.arange(end) * levels // end, levels - 1)
    full = inside > 0
    sums = np.bincount(level, inside, levels)
    share = np.bincount(level, full, levels)
    told = np.where(full, (sums / np.maximum(share, 1))[level], 0.0)
    seen = inside.copy()
    seen[-1] += counts[end:].sum()
    if not told.sum() or np.any((seen > 0) & (told == 0)):
        return np.inf
    p, q = seen / seen.sum(), told / told.sum()
    kept = p > 0
    return float((p[kept] * np.log(p[kept] / q[kept])).sum())
