"""Decisions: what a user of the model would act on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from strop.errors import MetricError
from strop.metrics._base import Outputs, class_outputs, is_real
from strop.metrics.agreement import decision_differs


def decisions_changed(reference: Outputs, candidate: Outputs) -> NDArray[np.bool_]:
    """For each example, whether the two models decide differently: bool[n].

    Of an output float[n, C] with C above 1 the decision is the highest column; of integers,
    booleans and text every value is one. Other floats hold no decision.

    Raises
    ------
    MetricError
        When an output is missing from the candidate or has another shape.

    Examples
    --------
    >>> before = {"y": np.array([[0.4, 0.6], [0.9, 0.1]])}
    >>> after = {"y": np.array([[0.6, 0.4], [0.8, 0.2]])}
    >>> decisions_changed(before, after).tolist()
    [True, False]
    """
    classes = class_outputs(reference)
    changed: NDArray[np.bool_] | None = None
    for name, before in reference.items():
        after = candidate.get(name)
        if after is None or after.shape != before.shape:
            shape = "is missing" if after is None else f"has the shape {list(after.shape)}"
            raise MetricError(f"output '{name}' {shape}, the original's {list(before.shape)}")
        if name in classes:
            differs = decision_differs(before, after)
        elif is_real(before) or before.dtype.kind == "c":
            differs = np.zeros(len(before), bool)
        else:
            differs = (before != after).reshape(len(before), -1).any(axis=1)
        changed = differs if changed is None else changed | differs
    if changed is None:
        raise MetricError("the model has no outputs")
    return changed
