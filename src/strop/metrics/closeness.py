"""How close the outputs stay to the original's."""

from __future__ import annotations

import numpy as np

from strop.errors import MetricError
from strop.metrics._base import Metric, Outputs, Scores
from strop.models.parity import relative_errors
from strop.records import ScoreKind


class Closeness(Metric):
    """1 − ‖candidate − original‖₂ / ‖original‖₂ of the worst output, clipped to [0, 1].

    Outputs of integers, booleans and text count as 1 when all are equal, else as 0.

    Examples
    --------
    >>> before, after = np.array([[3.0, 4.0]]), np.array([[3.0, 4.5]])
    >>> Closeness().scores({"y": after}, None, {"y": before}).round(6).tolist()
    [0.9]
    """

    name = "closeness"
    kind: ScoreKind = "bounded"
    uses_reference = True

    @classmethod
    def for_outputs(
        cls, outputs: Outputs, targets: np.ndarray | None, output: str | None
    ) -> Closeness:
        refuse_choice(cls.name, output)
        return cls()

    def scores(self, outputs: Outputs, target: np.ndarray | None, reference: Outputs) -> Scores:
        worst: Scores | None = None
        for name, before in reference.items():
            errors = relative_errors(before, same_shape(name, outputs, before))
            worst = errors if worst is None else np.maximum(worst, errors)
        if worst is None:
            raise MetricError("the model has no outputs")
        scores: Scores = 1.0 - np.minimum(worst, 1.0)
        return scores


def same_shape(name: str, outputs: Outputs, before: np.ndarray) -> np.ndarray:
    """The candidate's output of that name, checked to have the original's shape."""
    after = outputs.get(name)
    if after is None or after.shape != before.shape:
        found = "is missing" if after is None else f"has the shape {list(after.shape)}"
        raise MetricError(f"output '{name}' {found}, the original's {list(before.shape)}")
    return after


def refuse_choice(metric: str, output: str | None) -> None:
    """Raise MetricError when one output is named for a metric that looks at all of them."""
    if output is not None:
        raise MetricError(
            f"{metric} looks at all outputs and cannot be told to take '{output}'",
            hint=f"write --metric {metric}",
        )
