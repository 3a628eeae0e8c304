"""One look at all the data before a search spends time on them."""

from __future__ import annotations

import numpy as np

from strop.data.dataset import Dataset
from strop.data.dtypes import cast_of
from strop.data.fit import check_columns
from strop.records import Signature

_BATCH = 64


def check(dataset: Dataset, signature: Signature) -> list[str]:
    """Read every example once and tell what is odd about them.

    Warned of: arrays that nothing uses, floats cast to shorter ones, images scaled by strop,
    NaN and infinities, rows that repeat others, targets of one class only.

    Returns
    -------
    Warnings, one sentence each; empty when nothing is odd.

    Raises
    ------
    DataError
        When an example does not fit the signature.
    """
    way_out = "" if dataset.has_target else "; if it holds the right answers, call it 'target'"
    warnings = [f"'{name}' in {dataset.label} is not used{way_out}" for name in dataset.ignored]
    columns = dataset.columns
    if not dataset.is_preprocessed:
        check_columns(columns, signature, f"{dataset.label} holds")
        for spec in signature.inputs:
            given = columns[spec.name].dtype
            kind = cast_of(given, spec.dtype)
            if kind == "rounds":
                warnings.append(f"'{spec.name}' is cast from {given.name} to {spec.dtype}")
                beyond = _overflows(dataset, spec.name)
                if beyond:
                    some = "row holds" if beyond == 1 else "rows hold"
                    warnings.append(f"{beyond} {some} values in '{spec.name}' beyond {spec.dtype}")
            if kind == "narrows":
                for _ in dataset.batches(_BATCH):  # raises where a value does not fit
                    pass
        warnings += [
            note for column in columns.values() for note in [getattr(column, "note", None)] if note
        ]
    else:
        rows = np.linspace(0, len(dataset) - 1, min(len(dataset), _BATCH)).astype(np.int64)
        dataset.inputs(rows)
    for name, count in dataset.nonfinite.items():
        if count:
            some = "row holds" if count == 1 else "rows hold"
            warnings.append(f"{count} {some} NaN or infinity in '{name}'")
    return warnings + _repeats(dataset) + _classes(dataset)


def _overflows(dataset: Dataset, name: str) -> int:
    """Rows that hold more infinities after the cast than are stored."""
    count = 0
    for rows, arrays in dataset.batches(_BATCH):
        stored = np.asarray(dataset.columns[name][dataset.rows[rows]])
        lost = np.isfinite(stored) & ~np.isfinite(arrays[name])
        count += int(lost.reshape(len(rows), -1).any(axis=1).sum())
    return count


def _repeats(dataset: Dataset) -> list[str]:
    distinct = len(np.unique(dataset.contents))
    repeated = len(dataset) - distinct
    if not repeated:
        return []
    some = "repeats another" if repeated == 1 else "repeat others"
    told = f"{repeated} of {len(dataset)} rows {some}"
    if dataset.has_groups:
        return [f"{told} (the array 'group' says which examples are independent)"]
    return [f"{told}: each counts once; give an array 'group' if they are independent examples"]


def _classes(dataset: Dataset) -> list[str]:
    targets = dataset.targets()
    if targets is None or targets.ndim != 1 or targets.dtype.kind not in "iubOUT":
        return []
    if len(dataset) > 1 and len(set(targets.tolist())) == 1:
        return [f"every target is {targets.tolist()[0]!r}: the data show one class only"]
    return []
