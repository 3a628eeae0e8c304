"""Every figure again, from the bundle's own evidence: scores by example, timings by launch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from strop.bundle.figure import Figure
from strop.bundle.layout import SCORES, TIMINGS, locate, read_manifest
from strop.bundle.sample import read_arrays
from strop.bundle.spending import spending
from strop.errors import BundleError
from strop.proof import (
    RELATIVE_ERROR,
    BootstrapRefused,
    QualityTest,
    Resamples,
    launch_log_ratio,
    ledger_alpha,
    prove,
    ratio_interval,
    second_moment,
)
from strop.records import Claim, Evidence, Manifest, Quality

Arrays = Mapping[str, np.ndarray]


def recompute(path: str | Path) -> tuple[Figure, ...]:
    """The claim, the scores it rests on, speed-ups, energy and cost, from ``evidence/`` alone.

    Raises
    ------
    InputError
        When there is no bundle at `path`.
    BundleError
        When the evidence is missing or cannot be read.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    try:
        scores = read_arrays(locate(folder, SCORES))
        timings = dict(json.loads(locate(folder, TIMINGS).read_bytes()).items())
        return (
            *_quality(manifest.evidence.prove_quality, scores),
            *_claim(manifest, scores),
            *_speed(manifest.evidence, timings),
            *spending(manifest.evidence, timings),
        )
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        raise BundleError(f"the evidence of '{folder}' cannot be read: {error}") from error


def retest(manifest: Manifest, claim: Claim, drops: np.ndarray, scores: Arrays) -> QualityTest:
    """The test that a claim rests on, at the level and in the order of bets that it was given.

    Parameters
    ----------
    drops
        float64[n]: score of the original less score of the delivered, in the proof set's order.
    scores
        The bundle's scores, for the groups and for what *search* gave the test.

    Raises
    ------
    BundleError
        When the evidence does not tell how the test was run.
    """
    quality = manifest.evidence.prove_quality
    if quality is None or claim.tolerance is None or claim.confidence is None:
        raise BundleError("the manifest does not say what was tested")
    if quality.kind == "set":
        raise BundleError("a set-level metric is tested by its resamples")
    salt = manifest.lineage.get("plan_digest")
    if "betting" in claim.method and salt is None:
        raise BundleError("the digest of the plan, which orders the bets, is not recorded")
    before = None
    if quality.kind == "bounded" and len(scores.get("search/drops", ())):
        search = scores["search/drops"]
        before = second_moment(search, scores["search/groups"][: len(search)])
    return prove(
        drops,
        claim.tolerance,
        level_of(claim),
        kind=quality.kind,
        groups=scores["prove/groups"],
        v_search=before,
        salt=salt or "",
    )


def level_of(claim: Claim) -> float:
    """The share of the error that the claim's run on its proof set had."""
    return ledger_alpha(1 - (claim.confidence or 0.0), claim.run or 1)


def _quality(quality: Quality | None, scores: Arrays) -> Iterator[Figure]:
    if quality is None:
        return
    if "prove/errors" in scores:
        worst, changed = scores["prove/errors"].max(), scores["prove/changed"].sum()
        yield Figure("max_relative_error", quality.max_relative_error, float(worst))
        yield Figure("changed", quality.changed, float(changed))
    if quality.kind == "set":
        if "prove/errors" in scores:
            yield Figure("n", quality.n, len(scores["prove/errors"]))
            yield Figure("groups", quality.groups, len(np.unique(scores["prove/groups"])))
        if "prove/estimate" in scores:
            yield Figure("drop", quality.drop.estimate, float(scores["prove/estimate"][0]))
        yield Figure(
            "drop of the two scores", quality.drop.estimate, quality.reference - quality.candidate
        )
    if not len(scores.get("prove/reference", ())):
        return
    before, after = scores["prove/reference"], scores["prove/delivered"]
    drops = before - after
    yield Figure("n", quality.n, len(drops))
    yield Figure("groups", quality.groups, len(np.unique(scores["prove/groups"])))
    yield Figure("original's score", quality.reference, float(before.mean()))
    yield Figure("delivered's score", quality.candidate, float(after.mean()))
    yield Figure("drop", quality.drop.estimate, float(drops.mean()))
    yield Figure("lost", quality.lost, int(np.sum(drops > 0)))
    yield Figure("won", quality.won, int(np.sum(drops < 0)))


def _claim(manifest: Manifest, scores: Arrays) -> Iterator[Figure]:
    claim = manifest.claim
    if claim is None:
        return
    if claim.kind == "equivalent":
        if "prove/errors" not in scores:
            yield Figure("claim", None, None, "the errors by example are not in the bundle")
            return
        same = scores["prove/errors"].max() <= RELATIVE_ERROR and not scores["prove/changed"].any()
        yield Figure("claim holds", 1, float(same))
        return
    if manifest.evidence.prove_quality and manifest.evidence.prove_quality.kind == "set":
        yield from _resampled(claim, scores)
        return
    if not len(scores.get("prove/reference", ())):
        yield Figure("claim", None, None, "the scores by example are not in the bundle")
        return
    try:
        test = retest(
            manifest, claim, scores["prove/reference"] - scores["prove/delivered"], scores
        )
    except BundleError as error:
        yield Figure("claim", None, None, error.message)
        return
    yield Figure("claim holds", 1, float(test.proven))
    yield Figure("upper bound", claim.upper, test.upper)
    yield Figure("p", claim.p, test.p)


def _resampled(claim: Claim, scores: Arrays) -> Iterator[Figure]:
    """The bound of a set-level metric from its resamples; its value needs the examples."""
    names = ("prove/estimate", "prove/draws", "prove/left_out")
    if missing := [name for name in names if name not in scores]:
        yield Figure("claim", None, None, f"the bundle does not hold {', '.join(missing)}")
        return
    estimate, draws, left_out = (scores[name] for name in names)
    try:
        upper = Resamples(float(estimate[0]), draws, left_out).upper(level_of(claim))
    except BootstrapRefused as refusal:
        yield Figure("claim", None, None, str(refusal))
        return
    yield Figure("claim holds", 1, float(claim.tolerance is not None and upper < claim.tolerance))
    yield Figure("upper bound", claim.upper, upper)


def _speed(evidence: Evidence, timings: Mapping[str, Any]) -> Iterator[Figure]:
    for speedup in evidence.speedups:
        name = f"speed-up against {speedup.against}"
        timing = _timing(timings, speedup.against)
        if timing is None:
            yield Figure(name, speedup.ratio.estimate, None, "its launches are not in the bundle")
            continue
        ratio = speedup.ratio
        logs = [launch_log_ratio(quads) for quads in timing["quads"]]
        low, high = 0.0, math.inf  # what one launch says of others
        estimate = math.exp(logs[0])
        if len(logs) > 1:
            estimate, low, high = ratio_interval(logs, ratio.confidence)
        yield Figure(f"{name}, launches", speedup.launches, len(logs))
        yield Figure(name, ratio.estimate, estimate)
        yield Figure(f"{name}, low", ratio.low, low)
        yield Figure(f"{name}, high", ratio.high, high)


def _timing(timings: Mapping[str, Any], against: str) -> Any:
    """The launches of the delivered against another; it may be the fastest equivalent itself."""
    names = (f"{against}/delivered", f"{against}/equivalent")
    return next((timings[name] for name in names if name in timings), None)
