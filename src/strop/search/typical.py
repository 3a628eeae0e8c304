"""The examples that sessions are timed on."""

from __future__ import annotations

import numpy as np

from strop.search.workspace import Workspace

_TYPICAL = 64


def timing_inputs(workspace: Workspace, batch: int) -> dict[str, np.ndarray]:
    """One batch of real examples of *search*, of typical length where lengths differ.

    Padding shows as zeros in integer inputs (ids, masks); the examples nearest to the median
    count of other values are taken, so that a technique that skips padding is neither flattered
    nor slighted by the luck of the first rows.
    """
    dataset = workspace.roles["search"]
    rows = np.arange(min(max(_TYPICAL, batch), len(dataset)))
    inputs = dataset.inputs(rows)
    sizes = sum(
        np.count_nonzero(values.reshape(len(rows), -1), axis=1)
        for values in inputs.values()
        if np.issubdtype(values.dtype, np.integer)
    )
    if isinstance(sizes, np.ndarray):
        order = np.argsort(np.abs(sizes - np.median(sizes)), kind="stable")
        rows = rows[order]
    return dataset.inputs(rows[np.arange(batch) % len(rows)])
