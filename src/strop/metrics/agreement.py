"""Top-1 agreement with the original."""

from __future__ import annotations

from typing import Any

import numpy as np

from strop.errors import MetricError
from strop.metrics._base import Metric, Outputs, Scores, class_outputs, pick, summary
from strop.records import ScoreKind


class Agreement(Metric):
    """Whether candidate and original put the same class first.

    A score is 0 or 1, and the original scores 1 throughout. A row with NaN agrees only with a
    row with NaN.

    Examples
    --------
    >>> before, after = np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([[0.2, 0.8], [0.4, 0.6]])
    >>> Agreement("y").scores({"y": after}, None, {"y": before}).tolist()
    [1.0, 0.0]
    """

    name = "agreement"
    kind: ScoreKind = "agreement"
    uses_reference = True

    def __init__(self, output: str) -> None:
        self.output = output

    @classmethod
    def for_outputs(
        cls, outputs: Outputs, targets: np.ndarray | None, output: str | None
    ) -> Agreement:
        wanted = outputs if output is None else {output: pick(outputs, output)}
        fitting = class_outputs(wanted)
        if len(fitting) != 1:
            found = "no output has" if not fitting else f"{len(fitting)} outputs have"
            raise MetricError(
                f"{found} the shape [n, C] of class scores: {summary(wanted)}",
                hint="name one with --metric agreement:OUTPUT, or use --metric closeness",
            )
        return cls(fitting[0])

    def scores(self, outputs: Outputs, target: np.ndarray | None, reference: Outputs) -> Scores:
        before, after = pick(reference, self.output), pick(outputs, self.output)
        if before.shape != after.shape:
            raise MetricError(
                f"output '{self.output}' has the shape {list(after.shape)}, the original's "
                f"{list(before.shape)}"
            )
        return (~decision_differs(before, after)).astype(np.float64)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "output": self.output}


def decision_differs(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """bool[n]: the highest of two float[n, C] lies elsewhere, or only one of them holds NaN."""
    odd = (before != before).any(axis=1) != (after != after).any(axis=1)
    differs: np.ndarray = (before.argmax(axis=1) != after.argmax(axis=1)) | odd
    return differs
