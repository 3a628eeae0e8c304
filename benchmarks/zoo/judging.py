"""How far every candidate is from the original on rows that strop was never given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from candidates import Candidate, original_signature
from entries import Entry, in_folder

from strop import data as datasets
from strop import metrics
from strop.data import Dataset
from strop.measure import granted_cpus
from strop.metrics import Metric
from strop.proof import RELATIVE_ERROR, clopper_pearson, trinomial_upper
from strop.proof import prove as test
from strop.records import Claim, Placement, SessionSpec
from strop.workers import ChildError, Pool

ALPHA = 0.05
_BATCH = 32
_ROWS = 8


def judge(
    entry: Entry,
    zoo: Path,
    output: Path,
    candidates: Sequence[Candidate],
    tolerance: float,
    claim: Claim | None,
) -> dict[str, Any]:
    """Quality of all candidates on the held-out rows, beside the original in ONNX Runtime at FP32.

    Returns ``metric``, ``n``, ``reference`` (the original's mean score) and ``rows`` by
    candidate: ``drop`` with one-sided 95% bounds ``low`` and ``high``, ``changed`` decisions,
    ``within`` (the point estimate stays within the tolerance) and ``verdict`` on the tolerance.
    """
    signature = original_signature(zoo)
    dataset = datasets.read(
        zoo / "heldout.npz",
        signature,
        preprocess=None if entry.preprocess is None else in_folder(zoo, entry.preprocess),
        trust=True,
    )
    original = SessionSpec(
        engine="onnxruntime",
        artifact=str(zoo / "model.onnx"),
        signature=signature,
        placement=Placement(threads=len(granted_cpus())),
    )
    rows: dict[str, Any] = {}
    with Pool(env={"OMP_NUM_THREADS": str(len(granted_cpus()))}) as pool:
        metric = _metric(entry, zoo, pool, original, dataset)
        folder = output / "reference"
        reference = pool.child("evaluate").call(
            "strop.search.jobs:write_reference",
            spec=original.to_dict(),
            payload=None,
            dataset=dataset.describe(),
            batch=_BATCH,
            metric=metric.describe(),
            folder=str(folder),
        )
        for candidate in candidates:
            if candidate.spec is None:
                continue
            try:
                found = pool.child("evaluate").call(
                    "strop.search.jobs:evaluate",
                    spec=candidate.spec.to_dict(),
                    payload=None,
                    dataset=dataset.describe(),
                    # Where an example's result depends on its batch, the one that is served.
                    batch=_BATCH if candidate.invariant else 1,
                    metric=metric.describe(),
                    reference=str(folder),
                    reference_names=list(reference["names"]),
                    limit=None,
                )
            except ChildError as error:
                rows[candidate.name] = {"error": _one_line(error)}
                continue
            drops = reference["scores"] - found["scores"]
            rows[candidate.name] = row = compare(drops, metric.kind, tolerance)
            row["changed"] = int(found["changed"].sum())
            row["max_relative_error"] = float(found["errors"].max())
            print(f"{entry.name}: {candidate.name} loses {row['drop']:.2%}", flush=True)
    return {
        "metric": metric.name,
        "n": len(dataset),
        "reference": float(reference["scores"].mean()),
        "rows": rows,
        "claim_holds": _holds(rows.get("strop"), claim),
    }


def compare(drops: np.ndarray, kind: str, tolerance: float) -> dict[str, Any]:
    """The mean drop with a one-sided 95% bound on either side, and what they say of `tolerance`.

    >>> row = compare(np.zeros(500), "binary", 0.01)
    >>> row["verdict"], row["low"] <= 0 <= row["high"]
    ('confirmed', True)
    >>> compare(np.r_[np.ones(50), np.zeros(450)], "agreement", 0.02)["verdict"]
    'contradicted'
    """
    found = test(drops, tolerance, ALPHA, kind=kind)
    n = len(drops)
    if kind == "agreement":
        low = clopper_pearson(int(np.sum(drops == 1)), n, 2 * ALPHA)[0]
    elif kind == "binary":
        low = -trinomial_upper(int(np.sum(drops == -1)), int(np.sum(drops == 1)), n, ALPHA)
    else:
        low = -test(-drops, tolerance, ALPHA, kind=kind).upper
    estimate = float(drops.mean())
    verdict = "confirmed" if found.proven else "contradicted" if low > tolerance else "consistent"
    return {
        "drop": estimate,
        "low": low,
        "high": found.upper,
        "method": found.method,
        "within": estimate <= tolerance,
        "verdict": verdict,
    }


def _metric(entry: Entry, zoo: Path, pool: Pool, original: SessionSpec, dataset: Dataset) -> Metric:
    rows = np.arange(min(_ROWS, len(dataset)))
    outputs = pool.child("evaluate").call(
        "strop.search.jobs:first_outputs",
        spec=original.to_dict(),
        payload=None,
        dataset=dataset.describe(),
        rows=rows,
    )
    return metrics.resolve(
        None if entry.metric is None else in_folder(zoo, entry.metric),
        outputs=outputs,
        has_target=dataset.has_target,
        targets=dataset.targets(rows),
        trust=True,
    )


def _holds(row: dict[str, Any] | None, claim: Claim | None) -> str:
    """What the held-out rows say of the delivered model's claim."""
    if row is None or "error" in row or claim is None:
        return "no claim to check"
    if claim.kind == "equivalent":
        same = row["changed"] == 0 and row["max_relative_error"] <= RELATIVE_ERROR
        return "confirmed" if same else "contradicted"
    return str(row["verdict"])


def _one_line(error: ChildError) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "failed")[:240]


def geometric_mean(ratios: Sequence[float]) -> float:
    """
    >>> round(geometric_mean([2, 8]), 6)
    4.0
    """
    return math.exp(math.fsum(map(math.log, ratios)) / len(ratios))
