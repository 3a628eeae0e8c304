"""The contract of a metric: higher is better, in [0, 1] an example."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from strop.errors import MetricError
from strop.records import ScoreKind

Outputs: TypeAlias = Mapping[str, np.ndarray]
Scores: TypeAlias = NDArray[np.float64]


class Metric(ABC):
    """Scores a model's outputs, example by example, or as a set.

    Built-in ones are registered by name under ``strop.metrics``. Their constructor takes the
    parameters that :meth:`describe` gives beside the name.
    """

    name: str = ""
    kind: ScoreKind
    """Which family of tests the scores belong to (`strop.records.Quality`)."""
    uses_target: bool = False
    """Whether it cannot do without targets."""
    uses_reference: bool = False
    """Whether it compares with the original's outputs."""

    @classmethod
    @abstractmethod
    def for_outputs(
        cls, outputs: Outputs, targets: np.ndarray | None, output: str | None
    ) -> Metric:
        """The metric for a model, given a few of the original's outputs.

        Parameters
        ----------
        outputs
            By name, examples along dimension 0.
        targets
            Their targets; None when the data have none.
        output
            The output that the user named; None leaves the choice.

        Raises
        ------
        MetricError
            When the outputs or the targets are not what the metric scores.
        """

    @abstractmethod
    def scores(self, outputs: Outputs, target: np.ndarray | None, reference: Outputs) -> Scores:
        """float64[n] within [0, 1] for n examples, higher is better.

        Parameters
        ----------
        outputs, reference
            The candidate's and the original's outputs for the same examples.
        target
            The examples' targets; None where the data have none.

        Raises
        ------
        MetricError
            When they cannot be scored.
        """

    def check_targets(self, outputs: Outputs, target: np.ndarray) -> None:
        """Refuse targets that no output could meet, before a search spends time on the others.

        Parameters
        ----------
        outputs
            The original's for a few examples, which need not be those of `target`.
        target
            The targets of all examples of a role.

        Raises
        ------
        MetricError
            When one of them cannot be scored. A metric that cannot tell does nothing.
        """

    def value(self, outputs: Outputs, target: np.ndarray | None, reference: Outputs) -> float:
        """One number for all examples: the mean score, unless the metric is set-level."""
        return float(self.scores(outputs, target, reference).mean())

    def describe(self) -> dict[str, Any]:
        """JSON values from which `strop.metrics.reopen` makes the same metric."""
        return {"name": self.name}


def class_outputs(outputs: Outputs) -> list[str]:
    """Names of the outputs that look like scores of classes: float[n, C] with C above 1."""
    return [
        name
        for name, values in outputs.items()
        if is_real(values) and values.ndim == 2 and values.shape[1] > 1
    ]


def is_real(values: np.ndarray) -> bool:
    """Whether the values are floating-point numbers, bfloat16 included."""
    return values.dtype.kind == "f" or (values.dtype.kind == "V" and "float" in values.dtype.name)


def pick(outputs: Outputs, name: str) -> np.ndarray:
    """One output by name.

    Raises
    ------
    MetricError
        When there is none of that name.
    """
    if name not in outputs:
        known = ", ".join(f"'{it}'" for it in outputs)
        raise MetricError(f"the model has no output '{name}'", hint=f"it has {known}")
    return outputs[name]


def summary(outputs: Outputs) -> str:
    """The outputs as a message names them: ``y: float32[?, 10]``."""
    return ", ".join(
        f"{name}: {values.dtype.name}[{', '.join(['?', *map(str, values.shape[1:])])}]"
        for name, values in outputs.items()
    )
