"""The paired difference of two scores: an interval and a bound, by the tests that prove claims."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from strop.proof import (
    agreement_upper,
    betting_upper,
    clopper_pearson,
    method_for,
    salted_order,
    trinomial_upper,
)
from strop.proof.betting import DEFAULT_SECOND_MOMENT
from strop.records import Interval, ScoreKind


@dataclass(frozen=True)
class Scored:
    """Mean scores of both, and per example: drops (empty for set-level metrics) and the rest."""

    before: float
    after: float
    drops: np.ndarray
    errors: np.ndarray
    changed: np.ndarray


def describe_difference(
    scored: Scored, kind: ScoreKind, groups: np.ndarray, confidence: float
) -> tuple[Interval, float | None, str]:
    """B less A with its interval, the bound on the loss, and the method of both."""
    estimate = scored.after - scored.before
    if kind == "set":
        nothing = Interval(estimate=estimate, low=math.nan, high=math.nan, confidence=confidence)
        return nothing, None, ""
    clustered = len(np.unique(groups)) < len(groups)
    method = method_for(kind, clustered=clustered)
    alpha = 1 - confidence
    if method == "Clopper-Pearson":
        low, high = clopper_pearson(int(scored.drops.sum()), len(groups), alpha)
        least, most = -high, -low
    else:
        least = -_upper(scored.drops, method, groups, alpha / 2)
        most = _upper(-scored.drops, method, groups, alpha / 2)
    interval = Interval(
        estimate=estimate,
        low=min(least, estimate),
        high=max(most, estimate),
        confidence=confidence,
    )
    return interval, _upper(scored.drops, method, groups, alpha), method


def _upper(drops: np.ndarray, method: str, groups: np.ndarray, alpha: float) -> float:
    """One-sided upper bound on the mean drop, by the method that a proof would use."""
    if method == "exact trinomial":
        lost, won = int(np.sum(drops > 0)), int(np.sum(drops < 0))
        return trinomial_upper(lost, won, len(drops), alpha)
    if method == "Clopper-Pearson":
        return agreement_upper(int(drops.sum()), len(drops), alpha)
    order = salted_order(groups.tolist(), "compare")
    return betting_upper(
        drops[order],
        alpha,
        v_search=DEFAULT_SECOND_MOMENT,
        groups=groups[order] if method == "clustered betting" else None,
    )
