"""Metrics from the user's own file."""

from __future__ import annotations

import numbers
import traceback
from typing import Any

import numpy as np

from strop.errors import MetricError, StropError
from strop.metrics._base import Metric, Outputs, Scores, summary
from strop.models.user_code import UserFunction, load_function
from strop.records import ScoreKind


class UserMetric(Metric):
    """A function ``fn(outputs, target)`` that gives a score an example, higher is better.

    `outputs` is a dict of arrays, `target` an array, or None when the data have none. Scores lie
    within [0, 1]. What differs is declared by attributes of the function:

    - ``fn.level = "set"``: it returns one number for all examples (F1, mAP);
    - ``fn.uses_reference = True``: it takes the original's outputs as a third argument;
    - ``fn.range = (low, high)``: scores lie within these, and are rescaled to [0, 1];
    - ``fn.kind = "binary"`` or ``"bounded"``: whether scores are 0 or 1 or anything between,
      where strop's guess from a few examples may be wrong.
    """

    def __init__(self, function: UserFunction, kind: ScoreKind) -> None:
        self.name = str(function)
        self.function = function
        self.kind = kind
        self.uses_reference = bool(getattr(function.function, "uses_reference", False))
        self.range = _range(function)

    @classmethod
    def for_outputs(
        cls, outputs: Outputs, targets: np.ndarray | None, output: str | None
    ) -> UserMetric:
        raise MetricError("a metric of one's own is named as file.py:fn")

    @classmethod
    def probe(
        cls, function: UserFunction, outputs: Outputs, targets: np.ndarray | None
    ) -> UserMetric:
        """The metric, its kind found by scoring a few of the original's outputs.

        Scores are ``binary`` when none but 0 and 1 occur, neither for the outputs as they are
        nor for the same outputs dealt to the wrong examples.
        """
        declared = getattr(function.function, "kind", None)
        if getattr(function.function, "level", "example") == "set":
            metric = cls(function, "set")
            metric.value(outputs, targets, outputs)
            return metric
        if declared not in (None, "binary", "bounded"):
            raise MetricError(
                f"{function}.kind is {declared!r}", hint="make it 'binary' or 'bounded'"
            )
        metric = cls(function, declared or "bounded")
        scores = [metric.scores(outputs, targets, outputs)]
        if declared is None:
            shifted = {name: np.roll(values, 1, axis=0) for name, values in outputs.items()}
            scores.append(metric.scores(shifted, targets, outputs))
            if np.isin(np.concatenate(scores), (0.0, 1.0)).all():
                metric.kind = "binary"
        return metric

    def scores(self, outputs: Outputs, target: np.ndarray | None, reference: Outputs) -> Scores:
        count = len(next(iter(outputs.values())))
        result = self._call(outputs, target, reference)
        try:
            scores = np.asarray(result)
            if scores.dtype.kind not in "biuf":
                raise ValueError
        except ValueError:
            raise MetricError(
                f"{self.name} returns {type(result).__name__}, not numbers",
                hint="return an array with one score an example",
            ) from None
        if scores.shape != (count,):
            hint = "return one score an example"
            if scores.ndim == 0:
                hint += f', or declare {self.function.name}.level = "set"'
            raise MetricError(
                f"{self.name} returns the shape {list(scores.shape)} for {count} examples",
                hint=hint,
            )
        return self._scaled(scores.astype(np.float64))

    def value(self, outputs: Outputs, target: np.ndarray | None, reference: Outputs) -> float:
        if self.kind != "set":
            return super().value(outputs, target, reference)
        result = self._call(outputs, target, reference)
        plain = result.item() if isinstance(result, np.ndarray) and result.size == 1 else result
        if not isinstance(plain, numbers.Real | np.number) or isinstance(plain, np.complexfloating):
            raise MetricError(
                f"{self.name} returns {type(result).__name__} for the set, not a number"
            )
        if not np.isfinite(float(plain)):
            raise MetricError(f"{self.name} returns {float(plain)} for {_count(outputs)} examples")
        return float(self._scaled(np.array([float(plain)]))[0]) if self.range else float(plain)

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "function": self.function.spec,
            "sha256": self.function.sha256,
            "kind": self.kind,
        }

    @classmethod
    def reopened(cls, description: dict[str, Any]) -> UserMetric:
        """The metric that :meth:`describe` described; MetricError when its file has changed."""
        function = load_function(description["function"], trust=True)  # trusted at first
        if function.sha256 != description["sha256"]:
            raise MetricError(f"'{function.path.name}' has changed since the search began")
        return cls(function, description["kind"])

    def _call(self, outputs: Outputs, target: np.ndarray | None, reference: Outputs) -> Any:
        # Copies of the dicts: a function that writes into them must not change what others see.
        arguments: list[Any] = [dict(outputs), target]
        if self.uses_reference:
            arguments.append(dict(reference))
        try:
            return self.function(*arguments)
        except StropError:
            raise
        except Exception as error:
            what = "outputs, target, reference" if self.uses_reference else "outputs, target"
            raise MetricError(
                f"{self.name} raises {type(error).__name__}{self._line_of(error)}: {error}",
                hint=f"it is called as {self.function.name}({what}), with outputs "
                f"{summary(outputs)}{_told(target)}",
            ) from error

    def _line_of(self, error: BaseException) -> str:
        """The last line of the metric's own file that the error came through."""
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == str(self.function.path)
        ]
        return f" in line {lines[-1]}" if lines else ""

    def _scaled(self, scores: Scores) -> Scores:
        low, high = self.range or (0.0, 1.0)
        bad = ~np.isfinite(scores)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise MetricError(
                f"{self.name} returns {scores[row]} for {int(bad.sum())} of {len(scores)} "
                f"examples (first: number {row})",
                hint="return a number for every example",
            )
        slack = 1e-9 * (high - low)
        if scores.min(initial=low) < low - slack or scores.max(initial=high) > high + slack:
            strange = scores.min() if scores.min() < low - slack else scores.max()
            raise MetricError(
                f"{self.name} returns {strange:g}, outside [{low:g}, {high:g}]",
                hint=f"clip the scores, or declare {self.function.name}.range = (low, high)",
            )
        if self.kind == "binary" and not np.isin(scores, (low, high)).all():
            strange = scores[~np.isin(scores, (low, high))][0]
            raise MetricError(
                f"{self.name} returned only {low:g} and {high:g} at first and now {strange:g}",
                hint=f'declare {self.function.name}.kind = "bounded"',
            )
        scaled: Scores = np.clip((scores - low) / (high - low), 0.0, 1.0)
        return scaled


def _range(function: UserFunction) -> tuple[float, float] | None:
    declared = getattr(function.function, "range", None)
    if declared is None:
        return None
    try:
        low, high = (float(end) for end in declared)
    except (TypeError, ValueError):
        low = high = float("nan")
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise MetricError(
            f"{function}.range is {declared!r}", hint="make it two numbers, the lower first"
        )
    return low, high


def _count(outputs: Outputs) -> int:
    return len(next(iter(outputs.values())))


def _told(target: np.ndarray | None) -> str:
    return "" if target is None else f" and {summary({'target': target})}"
