"""What a report is made from: the result, and the raw evidence where it was kept."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from strop.errors import InputError
from strop.proof import launch_log_ratio
from strop.records import Result


@dataclass(frozen=True)
class Launches:
    """Raw timings of one pair, as `timings.json` keeps them.

    Attributes
    ----------
    left, right
        Who was timed against whom: ``original``, ``equivalent``, ``delivered``.
    batch, right_batch
        Examples a call of each.
    left_seconds, right_seconds
        float64[calls], seconds of every timed call, launches pooled.
    log_ratios
        float64[launches]: the log of the left one's time over the right one's, one a launch.
    """

    left: str
    right: str
    batch: int
    right_batch: int
    left_seconds: np.ndarray
    right_seconds: np.ndarray
    log_ratios: np.ndarray
    shortened: bool = False
    settled: bool = True


@dataclass(frozen=True)
class Sources:
    """Everything that the report reads.

    Attributes
    ----------
    bundle
        The bundle's folder as seen from the report.
    damaged
        Names of evidence files that are there and cannot be read.
    meta
        What the steps of the delivered recipe recorded, as the bundle's lineage keeps it.
    """

    result: Result
    bundle: str
    launches: tuple[Launches, ...] = ()
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    damaged: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)


def read(folder: Path) -> Sources:
    """Read an output folder, or a bundle.

    Raises
    ------
    InputError
        When the folder holds no result.
    """
    if (folder / "result.json").is_file():
        result = Result.read(folder / "result.json")
        bundle, evidence = result.bundle, folder / result.bundle / "evidence"
    elif (folder / "evidence" / "result.json").is_file():
        evidence = folder / "evidence"
        result, bundle = Result.read(evidence / "result.json"), folder.resolve().name
    else:
        raise InputError(
            f"there is no result in '{folder}'",
            hint="name the output folder of a finished search, or a bundle",
        )
    damaged = []
    launches: tuple[Launches, ...] = ()
    scores: dict[str, np.ndarray] = {}
    if (path := evidence / "timings.json").is_file():
        try:
            launches = _launches(json.loads(path.read_bytes()))
        except (ValueError, TypeError, KeyError, AttributeError):
            damaged.append(path.name)
    if (path := evidence / "scores.npz").is_file():
        try:
            scores = _scores(path)
        except (ValueError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile):
            damaged.append(path.name)
    meta: Mapping[str, Any] = {}
    if (path := evidence.parent / "manifest.json").is_file():
        try:
            meta = dict(json.loads(path.read_bytes())["lineage"]["meta"])
        except (ValueError, TypeError, KeyError):
            damaged.append(path.name)
    return Sources(result, bundle, launches, scores, tuple(damaged), meta)


def _launches(pairs: Mapping[str, Any]) -> tuple[Launches, ...]:
    """The pairs with at least one launch, those with the delivered one first."""
    found = []
    seen: set[str] = set()
    order = {"original/delivered": 0, "equivalent/delivered": 1, "original/equivalent": 2}
    for name in sorted(pairs, key=lambda name: (order.get(name, 3), name)):
        raw = pairs[name]
        # Where the original is its own fastest equivalent, one timing stands under two names.
        content = json.dumps(raw, sort_keys=True)
        if not raw["quads"] or content in seen:
            continue
        seen.add(content)
        left, _, right = name.partition("/")
        found.append(
            Launches(
                left=left,
                right=right,
                batch=int(raw["batch"]),
                right_batch=int(raw.get("b_batch", raw["batch"])),
                left_seconds=_positive(raw["a_seconds"]),
                right_seconds=_positive(raw["b_seconds"]),
                log_ratios=np.array([launch_log_ratio(quads) for quads in raw["quads"]]),
                shortened=bool(raw["shortened"]),
                settled=bool(raw["settled"]),
            )
        )
    return tuple(found)


def _positive(launches: list[list[float]]) -> np.ndarray:
    seconds = np.concatenate([np.asarray(launch, dtype=np.float64) for launch in launches])
    known: np.ndarray = seconds[np.isfinite(seconds) & (seconds > 0)]
    if not len(known):
        raise ValueError("no call has a time")
    return known


def _scores(path: Path) -> dict[str, np.ndarray]:
    wanted = ("prove/reference", "prove/delivered")
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        return {name: np.asarray(archive[name]) for name in wanted if name in archive.files}
