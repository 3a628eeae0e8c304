"""Weights in few bits, a scale for each block of a row: which scales, and which integers.

A row is what one output is computed from (a column of a MatMul's matrix, a word's embedding), and
a block is a run of consecutive weights of it. Small blocks are what makes 4 bits bearable
(Frantar et al., *GPTQ*, ICLR 2023, section "additional tricks: grouping").
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from strop.techniques.rounding import compensate

_CHUNK = 1 << 21
"""Weights searched at once: temporaries stay within some 60 MB."""
_SHARES = {4: np.linspace(1.0, 0.6, 17), 8: np.array([1.0])}
"""Shares of a block's range that are tried: with 256 levels clipping does not pay."""


class Blocks(NamedTuple):
    """``real = (stored - zeros) * scales``, each scale for a block of a row.

    Attributes
    ----------
    stored
        uint8[rows, width], below ``2**bits``.
    scales
        float32[rows, blocks].
    zeros
        uint8[rows, blocks]; ``2**(bits - 1)`` everywhere where symmetric.
    bits, block
        Bits of an integer, weights of a block; the last block of a row may be shorter.
    """

    stored: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    bits: int
    block: int

    @property
    def symmetric(self) -> bool:
        return bool(np.all(self.zeros == 2 ** (self.bits - 1)))

    def real(self) -> np.ndarray:
        """The weights that the integers stand for, float32[rows, width]."""
        width = self.stored.shape[1]
        zeros = _spread(self.zeros.astype(np.float32), self.block, width)
        result: np.ndarray = (self.stored - zeros) * _spread(self.scales, self.block, width)
        return result


def quantise_blocks(
    weight: np.ndarray,
    *,
    bits: int,
    block: int,
    symmetric: bool,
    search: bool = True,
    moments: np.ndarray | None = None,
) -> Blocks:
    """A matrix in integers of `bits`.

    Parameters
    ----------
    weight
        float32[rows, width].
    symmetric
        Whether zero is the middle of the integers; otherwise each block has a zero of its own.
    search
        Whether ranges shrink where that lowers the squared error, weighted by how large what
        meets each weight is where `moments` tells; otherwise each covers its block.
    moments
        float64[width, width], second moments of what the rows are multiplied with: integers are
        then chosen for the least change of the products (GPTQ) instead of to nearest.

    Examples
    --------
    >>> row = np.array([[0.0, 1.0, 2.0, 3.0, 0.0, 0.1, 0.2, 0.3]], np.float32)
    >>> found = quantise_blocks(row, bits=4, block=4, symmetric=False)
    >>> found.stored.tolist(), found.zeros.tolist()
    ([[0, 5, 10, 15, 0, 5, 10, 15]], [[0, 0]])
    >>> np.abs(found.real() - row).max() < 1e-6
    np.True_
    """
    rows, width = weight.shape
    importance = np.ones(width) if moments is None else np.diagonal(moments)
    importance = np.maximum(importance, 1e-6 * max(float(importance.mean()), 1e-30))
    parts = []
    for start in range(0, rows, max(1, _CHUNK // width)):
        chunk = weight[start : start + max(1, _CHUNK // width)]
        parts.append(_choose(chunk, importance, bits, block, symmetric, search))
    scales = np.concatenate([part[0] for part in parts])
    zeros = np.concatenate([part[1] for part in parts])
    if moments is None:
        stored = np.concatenate([part[2] for part in parts])
        return Blocks(stored, scales, zeros, bits, block)
    middle = _spread(zeros.astype(np.float64), block, width)
    signed = compensate(
        weight.astype(np.float64)[None],
        _spread(scales.astype(np.float64), block, width)[None],
        -middle[None],
        (2**bits - 1 - middle)[None],
        moments[None],
    )
    return Blocks((signed[0] + middle).astype(np.uint8), scales, zeros, bits, block)


def _choose(
    weight: np.ndarray,
    importance: np.ndarray,
    bits: int,
    block: int,
    symmetric: bool,
    search: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scales, zeros and nearest integers of some rows."""
    rows, width = weight.shape
    blocks = -(-width // block)
    pad = blocks * block - width
    shape = (rows, blocks, block)
    values = np.pad(weight, ((0, 0), (0, pad))).reshape(shape)
    factors = np.pad(importance, (0, pad)).reshape(1, blocks, block).astype(np.float32)
    low = np.minimum(values.min(axis=2), 0)[..., None]
    high = np.maximum(values.max(axis=2), 0)[..., None]
    if symmetric:
        high = np.maximum(-low, high)
    top = 2**bits - 1
    best: list[np.ndarray] = []
    for share in _SHARES[bits] if search else (1.0,):
        if symmetric:
            # One integer more below zero than above: a range of `half` above covers both ends.
            zeros = np.full_like(high, 2.0 ** (bits - 1))
            scales = _positive(high * np.float32(share) / np.float32(2 ** (bits - 1) - 1))
        else:
            scales = _positive((high - low) * np.float32(share) / np.float32(top))
            zeros = np.clip(np.round(-low * np.float32(share) / scales), 0, top)
        best = _better(best, _fit(values, factors, scales, zeros, top))
    if search:
        # The least-squares scale for the integers found, and the integers for that scale.
        for _ in range(2):
            signed = best[3] - best[2]
            denominator = (factors * signed * signed).sum(axis=2, keepdims=True)
            numerator = (factors * signed * values).sum(axis=2, keepdims=True)
            refined = np.divide(numerator, denominator, out=best[1].copy(), where=denominator > 0)
            refined = np.where(refined > 0, refined, best[1])
            best = _better(best, _fit(values, factors, refined, best[2], top))
    _, scales, zeros, stored = best
    return (
        scales[..., 0].astype(np.float32),
        zeros[..., 0].astype(np.uint8),
        stored.reshape(rows, -1)[:, :width].astype(np.uint8),
    )


def _fit(
    values: np.ndarray, factors: np.ndarray, scales: np.ndarray, zeros: np.ndarray, top: int
) -> list[np.ndarray]:
    stored = np.clip(np.round(values / scales) + zeros, 0, top)
    change = (stored - zeros) * scales - values
    error = (factors * change * change).sum(axis=2, keepdims=True)
    return [error, scales, zeros, stored]


def _better(old: list[np.ndarray], new: list[np.ndarray]) -> list[np.ndarray]:
    if not old:
        return new
    wins = new[0] < old[0]
    return [np.where(wins, after, before) for before, after in zip(old, new, strict=True)]


def _positive(scales: np.ndarray) -> np.ndarray:
    return np.where(scales > np.finfo(np.float32).tiny, scales, np.float32(1))


def _spread(values: np.ndarray, block: int, width: int) -> np.ndarray:
    """One value a block to one a weight."""
    spread: np.ndarray = np.repeat(values, block, axis=1)[:, :width]
    return spread
