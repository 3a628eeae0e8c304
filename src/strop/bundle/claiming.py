"""The claim again: the delivered is scored on the recorded proof set, and tested as it was."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strop.bundle.layout import SCORES, locate
from strop.bundle.loader import Bundle
from strop.bundle.native import Original
from strop.bundle.recompute import Arrays, retest
from strop.bundle.sample import read_arrays
from strop.bundle.scoring import outputs_on
from strop.bundle.verification import Check, CheckStatus, Verdict
from strop.errors import BundleError, TrustError
from strop.records import Claim

if TYPE_CHECKING:
    from strop.data import Dataset
    from strop.metrics import Metric

_STATUS: dict[Verdict, CheckStatus] = {
    "confirmed": "ok",
    "refuted": "failed",
    "unproven": "unproven",
}


def check_claim(
    bundle: Bundle, *, data: Any, original: Original | None, scratch: Path, trust: bool
) -> tuple[Check, Verdict]:
    """Test the claim on `data`, as far as they hold its proof set.

    Raises
    ------
    DataError
        When the data cannot be read.
    TrustError
        When the bundle's preprocessing or metric is code and `trust` is False.
    """
    verdict, detail = _judge(bundle, data, original, scratch, trust)
    return Check(name="claim", status=_STATUS[verdict], detail=detail), verdict


def _judge(
    bundle: Bundle, data: Any, original: Original | None, scratch: Path, trust: bool
) -> tuple[Verdict, str]:
    claim, manifest = bundle.claim, bundle.manifest
    if claim is None:
        return "unproven", "the bundle claims nothing"
    if data is None:
        return "unproven", f"{claim}: pass the data to test it here"
    scores = read_arrays(locate(bundle.path, SCORES))
    if "prove/keys" not in scores:
        return "unproven", "the bundle does not say which examples are its proof set"
    dataset = _read(bundle, data, scratch, trust)
    rows = match(dataset, scores)
    total = len(scores["prove/keys"])
    if len(rows) < total:
        return "unproven", f"the data hold {len(rows)} of the {total} examples of the proof set"
    proof_set = dataset.subset(rows)
    batch = manifest.recipe.deploy.batch
    reference = None
    if original is not None:
        from strop.engines import open_session

        with contextlib.closing(open_session(original.spec)) as session:
            reference = outputs_on(session, proof_set, batch)
    if claim.kind == "equivalent":
        return _equivalence(bundle, reference, proof_set, batch)
    metric = _metric(bundle, scratch, trust)
    if metric.kind == "set":
        return "unproven", "a set-level metric is not tested again: run strop optimize on the data"
    if metric.uses_reference and reference is None:
        return "unproven", f"{metric.name} compares with the original: pass it too"
    outputs = outputs_on(bundle, proof_set, batch)
    targets = proof_set.targets()
    after = metric.scores(outputs, targets, reference or {})
    before = scores["prove/reference"]
    if reference is not None:
        before = metric.scores(reference, targets, reference)
    return _test(bundle, claim, before - after, scores)


def match(dataset: Dataset, scores: Arrays) -> np.ndarray:
    """Rows of the dataset that are the proof set's examples, in its order; int64[found].

    Rows are taken by number where the contents there are the recorded ones, which is so for the
    very file that the search read. Otherwise they are found by content, wherever they stand, and
    of equal rows each is taken once.
    """
    wanted, here = scores["prove/keys"], np.asarray(dataset.keys)
    places = scores.get("prove/rows", np.zeros(0, np.int64))
    fits = len(places) == len(wanted) and places.max(initial=-1) < len(here)
    if fits and np.array_equal(here[places], wanted):
        return np.asarray(places, np.int64)
    waiting: dict[Any, list[int]] = {}
    for row, key in reversed(list(enumerate(here.tolist()))):
        waiting.setdefault(_hashable(key), []).append(row)
    found = []
    for key in wanted.tolist():
        if rows := waiting.get(_hashable(key)):
            found.append(rows.pop())
    return np.array(found, np.int64)


def _hashable(key: Any) -> Any:
    return tuple(key) if isinstance(key, list) else key


def _test(bundle: Bundle, claim: Claim, drops: np.ndarray, scores: Arrays) -> tuple[Verdict, str]:
    try:
        test = retest(bundle.manifest, claim, drops, scores)
    except (BundleError, ValueError) as error:
        return "unproven", str(error)
    detail = (
        f"drop {test.mean:.4g}, at most {test.upper:.4g} at {claim.confidence:.0%} confidence "
        f"(tolerance {test.tolerance:g}, {test.n} examples, {test.method})"
    )
    return ("confirmed" if test.proven else "refuted"), detail


def _equivalence(
    bundle: Bundle, reference: Arrays | None, proof_set: Dataset, batch: int
) -> tuple[Verdict, str]:
    from strop.metrics import decisions_changed
    from strop.models.parity import parity

    if reference is None:
        return "unproven", "equivalence compares outputs with the original's: pass it too"
    outputs = outputs_on(bundle, proof_set, batch)
    found = parity(reference, outputs)
    if not found.ok:
        return "refuted", f"{found} on {len(proof_set)} examples"
    changed = int(decisions_changed(reference, outputs).sum())
    detail = f"{found}, {changed} decisions changed on {len(proof_set)} examples"
    return ("refuted" if changed else "confirmed"), detail


def _read(bundle: Bundle, data: Any, scratch: Path, trust: bool) -> Dataset:
    from strop.data import read

    preprocess = bundle.manifest.preprocess
    return read(
        data,
        bundle.signature,
        preprocess=None if preprocess is None else _unpacked(bundle, preprocess, scratch, trust),
        trust=trust,
    )


def _metric(bundle: Bundle, scratch: Path, trust: bool) -> Metric:
    from strop.metrics import reopen

    description = dict(bundle.manifest.lineage.get("metric") or {})
    if not description:
        raise BundleError("the bundle does not record its metric")
    if "function" in description:
        description["function"] = _unpacked(bundle, description["function"], scratch, trust)
    return reopen(description)


def _unpacked(bundle: Bundle, spec: str, scratch: Path, trust: bool) -> str:
    """``file.py:fn`` of code in the bundle, copied to where no stale bytecode lies beside it."""
    if not trust:
        raise TrustError(
            f"the bundle's {spec} is code, which strop runs only when told to",
            hint="read it, then pass --trust (trust=True in Python)",
        )
    name, _, function = spec.rpartition(":")
    path = scratch / Path(name).name
    path.write_bytes(locate(bundle.path, name).read_bytes())
    return f"{path}:{function}"
