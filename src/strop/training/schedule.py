"""The learning rate: its peak from short trials, its course warm-up and cosine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

CANDIDATES = (3e-4, 1e-3, 3e-3, 1e-2)
"""Peaks that are tried, for Adam with decoupled weight decay."""

_WARM_UP = 0.05
_MARGIN = 0.05


def factor(progress: float) -> float:
    """The share of the peak at `progress` in [0, 1]: linear warm-up, then half a cosine to 0.

    Loshchilov and Hutter, *SGDR* (2017, arXiv:1608.03983).

    Examples
    --------
    >>> [round(factor(p), 2) for p in (0.0, 0.05, 0.525, 1.0)]
    [0.02, 1.0, 0.5, 0.0]
    """
    if progress < _WARM_UP:
        return max(progress / _WARM_UP, 0.02)
    done = min((progress - _WARM_UP) / (1 - _WARM_UP), 1.0)
    return 0.5 * (1 + math.cos(math.pi * done))


def position(step: int, total: int, since: int = 0, at: float = 0.0) -> float:
    """Where in the schedule a step is, in [0, 1].

    Parameters
    ----------
    total
        Steps in all, as they were planned at the step `since`, where the schedule stood `at`. From
        there it goes on to its end, slower or faster, so that the rate never has to rise again.

    Examples
    --------
    >>> position(50, 100), position(50, 200, since=50, at=0.5), position(125, 200, 50, 0.5)
    (0.5, 0.5, 0.75)
    """
    return at + (1 - at) * (step - since) / (total - since)


def choose_peak(
    trial: Callable[[float], float], candidates: Sequence[float] = CANDIDATES
) -> float | None:
    """The largest rate whose short trial ends near the lowest loss; None when all diverge.

    A short run favours small rates, which gain at once and lose later (Wu et al., *Understanding
    short-horizon bias*, 2018), so that among near equals the largest is taken.

    Parameters
    ----------
    trial
        A rate to the loss after a few steps with it, from the same start every time.

    Examples
    --------
    >>> choose_peak({1e-3: 1.00, 3e-3: 1.02, 1e-2: math.nan}.__getitem__, (1e-3, 3e-3, 1e-2))
    0.003
    """
    losses = {rate: trial(rate) for rate in candidates}
    finite = {rate: loss for rate, loss in losses.items() if math.isfinite(loss)}
    if not finite:
        return None
    lowest = min(finite.values())
    bound = lowest + _MARGIN * abs(lowest) + 1e-12
    return max(rate for rate, loss in finite.items() if loss <= bound)
