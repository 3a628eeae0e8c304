"""One-sided test by betting, for bounded real scores and for clustered examples.

Under ``H0: E[d] >= tolerance`` nobody can expect to gain by betting that drops stay below the
tolerance. A bettor starts with capital 1 and stakes a share ``λ_t`` on ``tolerance - d_t``, one
example after another; capital that reaches ``1/α`` has probability at most α under H0 (Ville's
inequality), whatever the distribution of d.

The family: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting",
JRSS-B 86, 2024, 1-27. The stake: enough to reach ``1/α`` in the examples that remain, given the
second moment so far, recomputed after each example; as in Voráček and Orabona, "STaR-Bets:
Sequential Target-Recalculating Bets for Tighter Confidence Intervals", NeurIPS 2025.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from strop.proof.binomial import check_alpha

DEFAULT_SECOND_MOMENT = 0.01
"""Assumed E[d²] where the search measured none: power may suffer, the error rate does not."""

_PRIOR_WEIGHT = 20  # examples that the second moment from the search counts for
_LARGEST_LOSS = 0.75  # share of its capital that one example may cost the bettor

Floats = NDArray[np.float64]


class Clusters(NamedTuple):
    """One bet a group: ``tolerance * weight - drop`` is ``Σ_{i∈g}(tolerance - d_i) / M``.

    ``drop`` is float64[groups], the group's summed drop over ``M``; ``weight`` float64[groups],
    its share of the largest size ``M``.
    """

    drop: Floats
    weight: Floats


def betting_p(
    d: ArrayLike,
    tolerance: float,
    *,
    v_search: float,
    alpha: float,
    bound: float = 1.0,
    groups: ArrayLike | None = None,
) -> float:
    """P-value ``1 / max K`` for ``H0: E[d] >= tolerance``, valid at any stopping time.

    Parameters: ``d`` float[n], score of the reference less score of the candidate, at most
    ``bound``, in an order that does not depend on the scores (see :func:`salted_order`);
    ``v_search`` the second moment of d as measured on other data (:func:`second_moment`);
    ``alpha`` the level that the stakes aim at; once it is reached the betting stops, so that
    p is barely below it. ``groups`` [n] names each example's group: groups are then the
    independent units, bet on whole, in order of first appearance.

    Assumes independent, identically distributed units. With groups ``E[d]`` is the mean over
    examples, ``E[Σ d_i] / E[size]``, and the largest size ``M`` counts as known beforehand.

    >>> betting_p(np.zeros(500), 0.01, v_search=0.0, alpha=0.05) <= 0.05
    True
    >>> betting_p(np.zeros(200), 0.01, v_search=0.0, alpha=0.05) <= 0.05
    False
    """
    bets = clustered_d(d, groups)
    _check(bets, tolerance, v_search, alpha, bound)
    log_capital = max_log_capital(
        bets.drop, bets.weight, np.float64(tolerance), v_search=v_search, alpha=alpha, bound=bound
    )
    return min(1.0, math.exp(-float(log_capital)))


def betting_upper(
    d: ArrayLike,
    alpha: float,
    *,
    v_search: float,
    bound: float = 1.0,
    groups: ArrayLike | None = None,
    tolerance: float | None = None,
) -> float:
    """Upper bound on ``E[d]`` at confidence ``1 - alpha``.

    The smallest value on a grid fixed beforehand such that it and every larger one is rejected;
    ``bound`` where none is. The stakes depend on the value tested, so that rejection need not be
    monotone in it, and a search by halving would have no guarantee; over a fixed grid it has:
    to report less than the truth, the bound must have rejected the last grid value below it,
    which is a true hypothesis. The grid is 2% fine from 1e-4 to ``bound`` on both sides of 0;
    ``tolerance``, fixed beforehand too, joins it, so that verdict and bound agree.

    >>> betting_upper(np.zeros(500), 0.05, v_search=0.0, tolerance=0.01) <= 0.01
    True
    """
    bets = clustered_d(d, groups)
    _check(bets, 0.0 if tolerance is None else tolerance, v_search, alpha, bound)
    grid = _grid(bound, tolerance)
    # Values below the mean of the data are hopeless; skipping them reports no less than the rest.
    mean = float(bets.drop.sum() / bets.weight.sum())
    grid = grid[int(np.searchsorted(grid, min(mean, grid[-1]))) :]
    log_capital = max_log_capital(
        bets.drop[:, None], bets.weight[:, None], grid, v_search=v_search, alpha=alpha, bound=bound
    )
    kept = np.flatnonzero(log_capital < -math.log(alpha))
    first = int(kept[-1]) + 1 if len(kept) else 0
    return float(grid[first]) if first < len(grid) else float(bound)


def max_log_capital(
    drop: Floats,
    weight: Floats,
    tolerance: Floats | np.float64,
    *,
    v_search: float,
    alpha: float,
    bound: float = 1.0,
) -> Floats:
    """Largest log capital on the way, along the first axis of ``drop``; the rest broadcasts.

    >>> capital = max_log_capital(
    ...     np.zeros(4), np.ones(4), np.float64(0.5), v_search=0.0, alpha=0.05
    ... )
    >>> round(float(capital), 6)
    2.238463
    """
    # Capital is kept as its logarithm: thousands of factors overflow nothing.
    target = -math.log(alpha)
    length = len(drop)
    cap = _LARGEST_LOSS / (bound - tolerance)
    shape = np.broadcast_shapes(drop.shape[1:], weight.shape[1:], np.shape(tolerance))
    log_capital = np.zeros(shape)
    best = np.zeros(shape)
    squares = np.full(drop.shape[1:], _PRIOR_WEIGHT * v_search, dtype=np.float64)
    for t in range(length):
        # d_1 … d_{t-1} and the capital they left decide the stake: never d_t itself.
        remaining = (length - t) * squares / (_PRIOR_WEIGHT + t)
        wanted = 2 * np.maximum(target - log_capital, 0.0)
        stake = np.minimum(np.sqrt(wanted / np.maximum(remaining, 1e-300)), cap)
        log_capital = log_capital + np.log1p(stake * (tolerance * weight[t] - drop[t]))
        best = np.maximum(best, log_capital)
        # Capital at the target stays there: betting on could only lose what is proven.
        log_capital = np.where(best >= target, np.maximum(best, target), log_capital)
        squares = squares + drop[t] * drop[t]
    return best


def clustered_d(d: ArrayLike, groups: ArrayLike | None = None) -> Clusters:
    """Drops summed over groups, in order of first appearance; without groups, d itself.

    Groups, not examples, are independent, so that one bet is made a group. Its gain
    ``Σ_{i∈g}(τ - d_i) / M`` has mean at most 0 under H0 for any dependence inside the group, and
    division by the largest size ``M`` keeps it above ``-(1 - τ)``. Row-wise tests on clustered
    data prove falsely far more often than α.

    >>> bets = clustered_d([1.0, 0.0, 0.0], ["a", "b", "a"])
    >>> bets.drop.tolist(), bets.weight.tolist()
    ([0.5, 0.0], [1.0, 0.5])
    """
    drop = np.asarray(d, dtype=np.float64)
    if drop.ndim != 1 or not len(drop):
        raise ValueError(f"d has shape {drop.shape}; expected one drop an example, at least one")
    if not np.isfinite(drop).all():
        raise ValueError("d holds values that are not finite; drop or repair those examples")
    if groups is None:
        return Clusters(drop, np.ones_like(drop))
    names = np.asarray(groups)
    if names.shape != drop.shape:
        raise ValueError(f"groups has shape {names.shape}; expected one an example, {drop.shape}")
    _, first, index = np.unique(names, return_index=True, return_inverse=True)
    order = np.argsort(first)
    size = np.bincount(index)[order].astype(np.float64)
    total = np.bincount(index, weights=drop)[order]
    return Clusters(total / size.max(), size / size.max())


def second_moment(d: ArrayLike, groups: ArrayLike | None = None) -> float:
    """Mean square of the drops (or of the groups' bets), to hand to a proof on other data.

    >>> second_moment([0.0, 0.1, -0.1, 0.0])
    0.005000000000000001
    """
    return float(np.mean(clustered_d(d, groups).drop ** 2))


def salted_order(keys: Iterable[Any], salt: str) -> NDArray[np.int64]:
    """The permutation that sorts the keys by salted hash: one order, fixed before the scores.

    Equal keys stay together in their given order. Keys are hashed by their ``str``.

    >>> salted_order(["a", "b", "c", "d"], "proof").tolist()
    [3, 1, 2, 0]
    """
    prefix = hashlib.blake2b(salt.encode(), digest_size=16).digest()
    digests = [hashlib.blake2b(str(key).encode(), key=prefix, digest_size=16) for key in keys]
    hashes = [digest.digest() for digest in digests]
    return np.array(sorted(range(len(hashes)), key=hashes.__getitem__), dtype=np.int64)


def _grid(bound: float, tolerance: float | None) -> Floats:
    steps = math.ceil(math.log(bound / 1e-4) / math.log(1.02))
    positive = 1e-4 * 1.02 ** np.arange(steps)
    positive = positive[positive < bound]
    extra = [0.0] if tolerance is None else [0.0, tolerance]
    return np.unique(np.concatenate([-positive, positive, extra]))


def _check(bets: Clusters, tolerance: float, v_search: float, alpha: float, bound: float) -> None:
    check_alpha(alpha)
    if not -bound < tolerance < bound:
        raise ValueError(f"tolerance is {tolerance}; expected it between -{bound} and {bound}")
    if not (v_search >= 0 and math.isfinite(v_search)):
        raise ValueError(f"v_search is {v_search}; expected the mean square drop, 0 or more")
    largest = float((bets.drop / bets.weight).max())
    if largest > bound * (1 + 1e-9):
        raise ValueError(
            f"a drop of {largest:g} exceeds the bound {bound:g}; clip the scores to [0, {bound:g}]"
            " or state a larger bound"
        )
