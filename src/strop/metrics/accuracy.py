"""Top-1 accuracy against integer targets."""

from __future__ import annotations

from typing import Any

import numpy as np

from strop.errors import MetricError
from strop.metrics._base import Metric, Outputs, Scores, is_real, pick, summary
from strop.records import ScoreKind


class Accuracy(Metric):
    """Whether the class with the highest score is the target.

    For an output ``[n, C]`` and integer targets ``[n]`` a score is 0 or 1. For ``[n, T, C]`` and
    ``[n, T]`` (tokens) it is the share of positions that are right, those with a negative target
    left out (−100 is customary for padding); an example without any position scores 1.
    The first of equal scores wins; a NaN among the scores is wrong.

    Examples
    --------
    >>> scores = np.array([[0.1, 0.9], [0.8, 0.2]])
    >>> Accuracy("y").scores({"y": scores}, np.array([1, 1]), {}).tolist()
    [1.0, 0.0]
    """

    name = "accuracy"
    uses_target = True

    def __init__(self, output: str, kind: ScoreKind = "binary") -> None:
        self.output = output
        self.kind = kind

    @classmethod
    def for_outputs(
        cls, outputs: Outputs, targets: np.ndarray | None, output: str | None
    ) -> Accuracy:
        if targets is None:
            raise MetricError(
                "accuracy needs targets, and the data have none",
                hint="add an array 'target', or use --metric agreement",
            )
        if targets.dtype.kind not in "iu" or targets.ndim not in (1, 2):
            kind = "text" if targets.dtype.kind in "OUT" else targets.dtype.name
            raise MetricError(
                f"accuracy needs integer targets [n] or [n, T], not {kind}{list(targets.shape)}",
                hint="give class numbers, or --metric file.py:fn",
            )
        wanted = outputs if output is None else {output: pick(outputs, output)}
        fitting = [name for name, values in wanted.items() if _fits(values, targets)]
        if len(fitting) != 1:
            found = "no output has" if not fitting else f"{len(fitting)} outputs have"
            shape = "[n, C]" if targets.ndim == 1 else "[n, T, C]"
            raise MetricError(
                f"{found} the shape {shape} of class scores: {summary(wanted)}",
                hint="name one with --metric accuracy:OUTPUT, or give --metric file.py:fn",
            )
        return cls(fitting[0], "binary" if targets.ndim == 1 else "bounded")

    def check_targets(self, outputs: Outputs, target: np.ndarray) -> None:
        classes = pick(outputs, self.output).shape[-1]
        highest, lowest = int(target.max(initial=0)), int(target.min(initial=0))
        if highest >= classes or (target.ndim == 1 and lowest < 0):
            strange = highest if highest >= classes else lowest
            raise MetricError(
                f"a target is class {strange}, and output '{self.output}' scores the classes 0 to "
                f"{classes - 1}",
                hint="number the classes as the model does",
            )

    def scores(self, outputs: Outputs, target: np.ndarray | None, reference: Outputs) -> Scores:
        values = pick(outputs, self.output)
        if target is None:
            raise MetricError("accuracy needs targets, and the data have none")
        if values.shape[:-1] != target.shape:
            raise MetricError(
                f"output '{self.output}' has the shape {list(values.shape)}, targets "
                f"{list(target.shape)}; accuracy takes [n, C] with [n], or [n, T, C] with [n, T]"
            )
        self.check_targets(outputs, target)
        right = (values.argmax(axis=-1) == target) & ~_has_nan(values)
        if target.ndim == 1:
            return np.asarray(right, np.float64)
        counted = target >= 0
        total = counted.sum(axis=1)
        scores: Scores = np.where(
            total > 0, (right & counted).sum(axis=1) / np.maximum(total, 1), 1.0
        )
        return scores

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "output": self.output, "kind": self.kind}


def _fits(values: np.ndarray, targets: np.ndarray) -> bool:
    shaped = values.ndim == targets.ndim + 1 and values.shape[:-1] == targets.shape
    return is_real(values) and shaped and values.shape[-1] > 1


def _has_nan(values: np.ndarray) -> np.ndarray:
    found: np.ndarray = (values != values).any(axis=-1)  # bfloat16 has no isnan
    return found
