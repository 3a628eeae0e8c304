"""The drop of a set-level metric, resampled: what its asymptotic bound rests on."""

from __future__ import annotations

import numpy as np

from strop.metrics._base import Metric, Outputs
from strop.proof import Resamples, resample


def resampled_drop(
    metric: Metric,
    reference: Outputs,
    candidate: Outputs,
    targets: np.ndarray | None,
    *,
    groups: np.ndarray,
    alpha: float,
    tolerance: float,
    seed: int,
    seconds: float | None = None,
) -> Resamples:
    """The metric of the reference less that of the candidate, over paired resamples.

    Parameters
    ----------
    reference, candidate
        Outputs by name, [examples, ...] each.
    targets
        [examples, ...], or None for metrics that need none.
    groups
        [examples]: resampled whole.
    alpha, tolerance, seed, seconds
        As :func:`strop.proof.resample` takes them.

    Raises
    ------
    BootstrapRefused
        When the examples, what changed among them or the time are too few for a bound.
    """
    changed = np.zeros(len(groups), bool)
    for name, values in candidate.items():
        changed |= (values != reference[name]).reshape(len(groups), -1).any(axis=1)

    def drop(rows: np.ndarray) -> float:
        truth = None if targets is None else targets[rows]
        before = {name: values[rows] for name, values in reference.items()}
        after = {name: values[rows] for name, values in candidate.items()}
        return float(metric.value(before, truth, before) - metric.value(after, truth, before))

    return resample(
        drop,
        len(groups),
        alpha,
        seed=seed,
        changed=int(changed.sum()),
        tolerance=tolerance,
        groups=groups,
        seconds=seconds,
    )
