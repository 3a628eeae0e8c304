"""Which examples calibrate, choose and judge: disjoint roles, whole groups, by salted hash."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from strop.data.content import uniform
from strop.data.dataset import Dataset
from strop.errors import DataError

CALIBRATE_ROWS = 256
CALIBRATE_SHARE = 0.1
SEARCH_SHARE = 0.3


class Roles(dict[str, Dataset]):
    """Datasets by role: ``calibrate``, ``search``, ``prove`` and, where given, ``train``.

    Attributes
    ----------
    warnings
        What had to be left out and why, one sentence each.
    """

    def __init__(self, roles: dict[str, Dataset], warnings: Sequence[str] = ()) -> None:
        super().__init__(roles)
        self.warnings = tuple(warnings)


def split(
    dataset: Dataset,
    *,
    train: Dataset | None = None,
    prove: Dataset | None = None,
    salt: str = "",
) -> Roles:
    """Give every example one role.

    Groups are put in the order of their salted blake2b hash, so that the same data split the
    same way wherever they lie and however their rows are ordered. Whole groups are dealt out:
    up to 256 rows and a tenth to *calibrate*, three tenths to *search*, the rest to *prove*.
    With `train`, *calibrate* is drawn from its rows, and `dataset` feeds *search* and *prove*
    only; with `prove`, all that `dataset` leaves goes to *search*.

    Where no array `group` says otherwise, an example is a group, and a row that repeats an
    earlier one is left out, so that each counts once. Examples that occur in a role which judges
    are taken out of the roles that learn or choose (leakage).

    Returns
    -------
    All roles, *prove* and *calibrate* empty when there are too few groups to go round (*search*
    is served first, then *prove*).

    Raises
    ------
    DataError
        When the proof set holds all that `dataset` or `train` has.
    """
    warnings: list[str] = []
    kept = _once(dataset, warnings)
    if prove is not None:
        prove = _once(prove, warnings)
        kept = _without(kept, prove, "the proof set", warnings)
    calibrate_share = 0.0 if train is not None else CALIBRATE_SHARE
    roles = _deal(kept, calibrate_share, whole=prove is not None, salt=salt)
    if prove is not None:
        roles["prove"] = prove
    if train is not None:
        learned = _without(train, roles["prove"], "the proof set", warnings)
        learned = _without(learned, roles["search"], "the rows that choose", warnings)
        order = np.argsort(uniform(learned.contents, salt), kind="stable")
        roles["train"] = learned
        roles["calibrate"] = learned.subset(np.sort(order[:CALIBRATE_ROWS]))
    return Roles(roles, warnings)


def _deal(dataset: Dataset, calibrate: float, *, whole: bool, salt: str) -> dict[str, Dataset]:
    """Deal the groups of one dataset out; `whole`: what is not calibrated on goes to search."""
    codes, members = np.unique(dataset.groups, return_inverse=True)
    sizes = np.bincount(members, minlength=len(codes))
    order = np.lexsort((codes, uniform(codes, salt)))
    n = len(dataset)

    wanted = min(CALIBRATE_ROWS, max(1, int(n * calibrate))) if calibrate else 0
    needed = 2 if whole else 3
    first = order[:0]
    if wanted and len(codes) >= needed:
        first = _calibration_groups(order, sizes, wanted)
    rest = order[~np.isin(order, first)]
    if whole:
        second = rest
    else:
        ends = np.cumsum(sizes[rest])
        # A group goes where most of it lies, and prove keeps one where there are two.
        taken = int(np.searchsorted(ends - sizes[rest] / 2, SEARCH_SHARE * n))
        second = rest[: max(1, min(taken, len(rest) - 1))]
    third = rest[len(second) :]
    roles = {
        name: dataset.subset(np.isin(members, groups))
        for name, groups in (("calibrate", first), ("search", second), ("prove", third))
    }
    if len(roles["calibrate"]) > wanted:  # one group bigger than the role: part of it is unused
        roles["calibrate"] = roles["calibrate"].subset(np.arange(wanted))
    return roles


def _calibration_groups(
    order: NDArray[np.int64], sizes: NDArray[np.int64], wanted: int
) -> NDArray[np.int64]:
    chosen: list[int] = []
    left = wanted
    for group in order.tolist():
        if sizes[group] <= left:
            chosen.append(group)
            left -= int(sizes[group])
        elif chosen:
            break  # going on would favour small groups
    # Where every group is too big, the smallest costs the other roles least.
    return np.array(chosen or [order[np.argmin(sizes[order])]], np.int64)


def _once(dataset: Dataset, warnings: list[str]) -> Dataset:
    """Without the rows that repeat an earlier one, unless groups are given."""
    if dataset.has_groups:
        return dataset
    _, first = np.unique(dataset.contents, return_index=True)
    repeats = len(dataset) - len(first)
    if not repeats:
        return dataset
    some = "row repeats another and is" if repeats == 1 else "rows repeat others and are"
    warnings.append(f"{repeats} {some} left out ({dataset.label})")
    return dataset.subset(np.sort(first))


def _without(dataset: Dataset, judge: Dataset, title: str, warnings: list[str]) -> Dataset:
    """Without the rows whose content or group also occurs among the `judge`'s."""
    shared = np.isin(dataset.contents, judge.contents)
    if dataset.has_groups and judge.has_groups:
        shared |= np.isin(dataset.groups, judge.groups)
    if not shared.any():
        return dataset
    if shared.all():
        raise DataError(
            f"all {len(dataset)} examples of {dataset.label} are in {title}, too",
            hint="give examples that are not used twice",
        )
    some = "example of {} is" if shared.sum() == 1 else "examples of {} are"
    warnings.append(
        f"{shared.sum()} {some.format(dataset.label)} in {title}, too, and left out of the others"
    )
    return dataset.subset(~shared)


def first_groups(dataset: Dataset, rows: int, *, salt: str = "") -> Dataset:
    """About `rows` examples in whole groups, those that come first in salted order.

    The order depends on the groups' content alone, so the rest is a random sample however the
    file is sorted. All of `dataset` where it holds no more than `rows`; where the last group does
    not fit, it comes along.
    """
    if rows >= len(dataset):
        return dataset
    order = np.argsort(uniform(dataset.groups, f"first:{salt}"), kind="stable")
    groups = dataset.groups[order]
    end = rows
    while end < len(groups) and groups[end] == groups[end - 1]:
        end += 1
    return dataset.subset(np.sort(order[:end]))
