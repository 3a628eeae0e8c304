"""The claim again: the delivered is scored on the recorded proof set, and tested as it was."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strop.bundle.code import unpack_code
from strop.bundle.layout import SCORES, locate
from strop.bundle.loader import Bundle
from strop.bundle.native import Original
from strop.bundle.recompute import Arrays, level_of, retest
from strop.bundle.sample import read_arrays
from strop.bundle.scoring import outputs_on
from strop.bundle.verification import Check, CheckStatus, Verdict
from strop.errors import BundleError
from strop.proof import BootstrapRefused
from strop.records import Claim

if TYPE_CHECKING:
    from strop.data import Dataset
    from strop.metrics import Metric

_RANGES = 4
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
    try:
        scores = read_arrays(locate(bundle.path, SCORES))
    except BundleError as error:
        return "unproven", str(error)
    if "prove/keys" not in scores:
        return "unproven", "the bundle does not say which examples are its proof set"
    dataset = _read(bundle, data, scratch, trust)
    rows = match(dataset, scores)
    if (rows < 0).any():
        return "unproven", _missing(bundle, rows, len(dataset), scores)
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
        return _set_level(bundle, claim, metric, reference, proof_set, batch)
    if metric.uses_reference and reference is None:
        return "unproven", f"{metric.name} compares with the original: pass it too"
    outputs = outputs_on(bundle, proof_set, batch)
    targets = proof_set.targets()
    after = metric.scores(outputs, targets, reference or {})
    before = scores["prove/reference"]
    if reference is not None:
        before = metric.scores(reference, targets, reference)
    return _test(bundle, claim, before - after, scores)


def _set_level(
    bundle: Bundle,
    claim: Claim,
    metric: Metric,
    reference: Arrays | None,
    proof_set: Dataset,
    batch: int,
) -> tuple[Verdict, str]:
    """The paired bootstrap again, as it was seeded; both models' outputs are its data."""
    from strop.metrics import resampled_drop

    if reference is None:
        return "unproven", f"{metric.name} is one number a set, resampled in pairs: pass --original"
    if claim.tolerance is None or claim.confidence is None:
        return "unproven", "the manifest does not say what was tested"
    try:
        found = resampled_drop(
            metric,
            reference,
            outputs_on(bundle, proof_set, batch),
            proof_set.targets(),
            groups=np.asarray(proof_set.groups),
            alpha=level_of(claim),
            tolerance=claim.tolerance,
            seed=int(bundle.manifest.lineage.get("seed", 0)),
        )
        upper = found.upper(level_of(claim))
    except BootstrapRefused as refusal:
        return "unproven", str(refusal)
    detail = (
        f"drop {found.estimate:.4g}, at most {upper:.4g} at {claim.confidence:.0%} confidence "
        f"(tolerance {claim.tolerance:g}, {len(proof_set)} examples, {claim.method}, asymptotic)"
    )
    return ("confirmed" if upper < claim.tolerance else "refuted"), detail


def match(dataset: Dataset, scores: Arrays) -> np.ndarray:
    """Rows of the dataset that are the proof set's examples, in its order; −1 where there is none.

    int64[examples of the proof set].
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
        rows = waiting.get(_hashable(key))
        found.append(rows.pop() if rows else -1)
    return np.array(found, np.int64)


def _missing(bundle: Bundle, rows: np.ndarray, given: int, scores: Arrays) -> str:
    """Which of the proof set's examples are not in the data, and what would help."""
    lost = rows < 0
    source = Path(str(bundle.manifest.lineage.get("data", ""))).name or "the data of the search"
    if lost.all():
        hint = "pass the file that the search read"
        if bundle.manifest.preprocess is None:
            hint += ", with inputs as the model takes them"
        return (
            f"none of the {len(rows)} examples of the proof set are among the {given} given "
            f"({source} was searched): {hint}"
        )
    text = f"the data hold {int((~lost).sum())} of the {len(rows)} examples of the proof set"
    places = scores.get("prove/rows", np.zeros(0, np.int64))
    if len(places) == len(rows):
        text += f"; missing are those that stood in {_ranges(places[lost])} of {source}"
    return f"{text}; the claim is about all of them, and is tested on all or not at all"


def _ranges(rows: np.ndarray) -> str:
    """``row 7``, ``rows 3, 8–12, … (40 in all)``: runs of rows, the first few."""
    ordered = np.sort(rows)
    runs = np.split(ordered, np.flatnonzero(np.diff(ordered) != 1) + 1)
    shown = [f"{run[0]}" if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs[:_RANGES]]
    more = f", … ({len(ordered)} in all)" if len(runs) > _RANGES else ""
    return f"{'row' if len(ordered) == 1 else 'rows'} {', '.join(shown)}{more}"


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
    if preprocess is not None:
        preprocess = unpack_code(bundle.path, preprocess, scratch, trust=trust)
    return read(data, bundle.signature, preprocess=preprocess, trust=trust)


def _metric(bundle: Bundle, scratch: Path, trust: bool) -> Metric:
    from strop.metrics import reopen

    description = dict(bundle.manifest.lineage.get("metric") or {})
    if not description:
        raise BundleError("the bundle does not record its metric")
    if "function" in description:
        function = description["function"]
        description["function"] = unpack_code(bundle.path, function, scratch, trust=trust)
    return reopen(description)
