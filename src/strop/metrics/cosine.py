"""Cosine similarity with the original's outputs."""

from __future__ import annotations

import numpy as np

from strop.errors import MetricError
from strop.metrics._base import Metric, Outputs, Scores, is_real
from strop.metrics.closeness import refuse_choice, same_shape
from strop.records import ScoreKind


class Cosine(Metric):
    """The cosine between candidate and original, of the worst output, clipped to [0, 1].

    Each example's output is one vector. Zeros are similar to zeros only; rows with NaN or
    infinity, and outputs of integers, booleans and text, score 1 when equal, else 0.

    Examples
    --------
    >>> before, after = np.array([[1.0, 0.0]]), np.array([[1.0, 1.0]])
    >>> Cosine().scores({"y": after}, None, {"y": before}).round(6).tolist()
    [0.707107]
    """

    name = "cosine"
    kind: ScoreKind = "bounded"
    uses_reference = True

    @classmethod
    def for_outputs(
        cls, outputs: Outputs, targets: np.ndarray | None, output: str | None
    ) -> Cosine:
        refuse_choice(cls.name, output)
        return cls()

    def scores(self, outputs: Outputs, target: np.ndarray | None, reference: Outputs) -> Scores:
        worst: Scores | None = None
        for name, before in reference.items():
            similar = _similarity(before, same_shape(name, outputs, before))
            worst = similar if worst is None else np.minimum(worst, similar)
        if worst is None:
            raise MetricError("the model has no outputs")
        return worst


def _similarity(before: np.ndarray, after: np.ndarray) -> Scores:
    rows = len(before)
    if not is_real(before):
        return np.asarray((before == after).reshape(rows, -1).all(axis=1), np.float64)
    first = before.reshape(rows, -1).astype(np.float64)
    second = after.reshape(rows, -1).astype(np.float64)
    equal = ((first == second) | ((first != first) & (second != second))).all(axis=1)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        # Scaled by the largest value first, so that squares neither overflow nor vanish.
        first = first / np.abs(first).max(axis=1, keepdims=True, initial=0.0)
        second = second / np.abs(second).max(axis=1, keepdims=True, initial=0.0)
        norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        cosine = np.sum(first * second, axis=1) / norms
    scores: Scores = np.where(equal, 1.0, np.clip(np.nan_to_num(cosine, nan=0.0), 0.0, 1.0))
    return scores
