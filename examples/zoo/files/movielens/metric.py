"""Pass to strop as `--metric metric.py:fn` (right or wrong) or `--metric metric.py:auc`."""

from collections.abc import Mapping

import numpy as np


def fn(outputs: Mapping[str, np.ndarray], target: np.ndarray) -> np.ndarray:
    """1 where the sign of the logit, float[n], says what target, 0 or 1, says; else 0."""
    (logit,) = outputs.values()
    return (logit > 0) == (target == 1)


def auc(outputs: Mapping[str, np.ndarray], target: np.ndarray) -> float:
    """How often a liked film is ranked above a disliked one; half counted where they tie.

    The Mann-Whitney statistic (Hanley and McNeil, 1982). 0.5 where there is only one kind.
    """
    (logit,) = outputs.values()
    _, rank_of, count = np.unique(logit, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(count) - (count - 1) / 2
    liked = target == 1
    pairs = int(liked.sum()) * int((~liked).sum())
    above = mean_rank[rank_of][liked].sum() - liked.sum() * (liked.sum() + 1) / 2
    return float(above / pairs) if pairs else 0.5


fn.kind = "binary"
auc.level = "set"
