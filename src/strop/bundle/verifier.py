"""Checking a bundle: its files, its figures, its outputs, its speed, and the claim again."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from strop.bundle.claiming import check_claim
from strop.bundle.layout import SAMPLE, locate, read_manifest, verify_files
from strop.bundle.loader import Bundle, session_spec
from strop.bundle.native import Original, open_original
from strop.bundle.recompute import recompute
from strop.bundle.sample import Sample, fixed_batch, read_arrays, repeated, unpack
from strop.bundle.scoring import outputs_of
from strop.bundle.verification import Check, Verdict, Verification
from strop.errors import BundleError, StropError
from strop.records import Machine, Manifest, SessionSpec, Speedup

Emit = Callable[[str], None]


def verify(
    path: str | Path,
    *,
    data: Any = None,
    original: str | Path | None = None,
    trust: bool = False,
    launches: int = 5,
    emit: Emit | None = None,
) -> Verification:
    """Check a bundle as far as what is given allows.

    Without anything else: digests of all files, whether it loads and runs, its figures computed
    again from its own evidence, its outputs beside the original's on the sample, its latency.

    Parameters
    ----------
    data
        The examples that the claim was proven on (a path, or arrays by name): the claim is then
        tested again on the rows of the proof set, found by their content.
    original
        The model that was given: the delivered is then timed against it, and compared with it.
    trust
        Whether code may run: an exported program, the recorded preprocessing, the user's metric,
        an `original` of the form ``file.py:callable``.
    launches
        Fresh pairs of processes for the timing.
    emit
        Takes a short line for a progress view.

    Raises
    ------
    InputError, BundleError
        When there is no bundle, or its manifest cannot be read. Whatever else is wrong is a
        failed check.
    DataError, ModelError, TrustError
        When `data` or `original` cannot be read.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    say = emit or _silent
    say("comparing digests")
    wrong = verify_files(folder, manifest)
    if wrong:
        checks = [Check(name="files", status="failed", detail="; ".join(wrong[:3]))]
        # What has been changed is not run: nobody knows what it would do.
        return _verification(manifest, checks, "unproven")
    checks = [Check(name="files", status="ok", detail=f"{len(manifest.files)} files as recorded")]
    spec = session_spec(folder, manifest, trust=trust)
    say("loading")
    try:
        bundle = Bundle(folder, manifest, spec)
    except StropError as error:
        checks.append(Check(name="load", status="failed", detail=str(error)))
        return _verification(manifest, checks, "unproven")
    with bundle, tempfile.TemporaryDirectory(prefix="strop-") as scratch:
        try:
            sample = unpack(read_arrays(locate(folder, SAMPLE)))
        except BundleError as error:
            checks.append(Check(name="sample", status="failed", detail=str(error)))
            return _verification(manifest, checks, "unproven")
        given = None
        if original is not None:
            say("opening the original")
            given = open_original(
                original, manifest, sample, folder, spec.placement, Path(scratch), trust=trust
            )
        checks += _outputs(bundle, sample)
        say("computing the figures again")
        checks.append(_figures(folder))
        if given is not None:
            checks.append(_same_original(manifest, given))
        say("timing")
        checks.append(_speed(manifest, spec, sample, given, launches, say))
        say("testing the claim")
        claim, verdict = check_claim(
            bundle, data=data, original=given, scratch=Path(scratch), trust=trust
        )
        checks.append(claim)
        checks.append(_isa(manifest, verdict))
    return _verification(manifest, checks, verdict)


def _verification(manifest: Manifest, checks: list[Check], verdict: Verdict) -> Verification:
    return Verification(
        bundle=manifest.name, claim=manifest.claim, verdict=verdict, checks=tuple(checks)
    )


def _outputs(bundle: Bundle, sample: Sample) -> Iterator[Check]:
    from strop.metrics import decisions_changed
    from strop.models.parity import parity

    try:
        outputs = outputs_of(bundle, sample.inputs)
    except StropError as error:
        yield Check(name="load", status="failed", detail=f"the sample does not run: {error}")
        return
    missing = set(bundle.signature.output_names) - outputs.keys()
    shown = str(bundle.signature)
    yield Check(
        name="load",
        status="failed" if missing else "ok",
        detail=f"outputs {', '.join(sorted(missing))} are missing" if missing else shown,
    )
    found = parity(sample.outputs, outputs)
    changed = 0
    if np.isfinite(found.max_relative_error):
        changed = int(decisions_changed(sample.outputs, outputs).sum())
    detail = f"{found} beside the original on {sample.rows} examples, {changed} decisions changed"
    claim = bundle.claim
    if claim is not None and claim.kind == "equivalent":
        status = "ok" if found.ok and not changed else "failed"
    else:
        # A claim within a tolerance allows any of these examples to differ; nonsense it does not.
        status = "ok" if np.isfinite(found.max_relative_error) else "failed"
    yield Check.from_dict({"name": "sample", "status": status, "detail": detail})


def _figures(folder: Path) -> Check:
    try:
        figures = recompute(folder)
    except StropError as error:
        return Check(name="figures", status="failed", detail=str(error))
    differ = [str(figure) for figure in figures if figure.agrees is False]
    if differ:
        return Check(name="figures", status="failed", detail="; ".join(differ))
    unknown = [str(figure) for figure in figures if figure.agrees is None]
    if unknown or not figures:
        detail = "; ".join(unknown) or "the bundle records no figure"
        return Check(name="figures", status="unproven", detail=detail)
    return Check(
        name="figures", status="ok", detail=f"{len(figures)} figures follow from the evidence"
    )


def _same_original(manifest: Manifest, given: Original) -> Check:
    if given.digest == manifest.original_digest:
        return Check(name="original", status="ok", detail="the model that was given")
    return Check(
        name="original",
        status="unproven",
        detail="its digest is another than the recorded one: another model, or an import by "
        "another version of strop",
    )


def _speed(
    manifest: Manifest,
    spec: SessionSpec,
    sample: Sample,
    given: Original | None,
    launches: int,
    say: Emit,
) -> Check:
    from strop.measure import Conditions, curve, pair, speedup

    batch = _batch_of(manifest)
    inputs = repeated(sample.inputs, batch)
    try:
        if given is None:
            point = curve(spec, {batch: inputs}, seconds=0.3, warmup_seconds=1.0)[0]
            recorded = [it.p50.estimate for it in manifest.evidence.latency if it.batch == batch]
            there = f", {recorded[0] * 1e3:.3g} ms recorded" if recorded else ""
            detail = f"median {point.p50_seconds * 1e3:.3g} ms here{there} (batch {batch})"
            return Check(
                name="speed", status="unproven", detail=f"{detail}; pass the original to compare"
            )
        before = next((it for it in manifest.evidence.speedups if it.against == "original"), None)
        # Each as it was timed: a throughput goal gives both the batch size that suits them.
        its = fixed_batch(manifest.signature) or (before.batch if before else batch)
        timing = pair(
            given.spec,
            spec,
            repeated(sample.inputs, its),
            b_inputs=inputs,
            launches=launches,
            warmup_seconds=1.0,
            emit=say,
            # What was won by calls that run at once is not seen one call at a time.
            conditions=Conditions(concurrent=spec.placement.streams > 1),
        )
        found = speedup(timing, "original")
    except StropError as error:
        return Check(name="speed", status="failed", detail=str(error))
    detail = f"{_ratio(found)} against the original here"
    if before is not None:
        detail += f", {_ratio(before)} recorded"
    promised = before is not None and before.ratio.low > 1
    if found.ratio.low > 1:
        return Check(name="speed", status="ok", detail=detail)
    failed = promised and found.ratio.high < 1
    return Check(name="speed", status="failed" if failed else "unproven", detail=detail)


def _isa(manifest: Manifest, verdict: Verdict) -> Check:
    from strop.measure.machine import describe

    here: Machine = describe()
    there = manifest.claim.isa if manifest.claim is not None else manifest.machine.isa
    missing, more = sorted(set(there) - set(here.isa)), sorted(set(here.isa) - set(there))
    if not missing and not more:
        return Check(name="machine", status="ok", detail="the instruction sets of the proof")
    parts = []
    if missing:
        parts.append(f"this machine lacks {', '.join(missing)}")
    if more:
        parts.append(f"this machine also has {', '.join(more)}")
    detail = "; ".join(parts)
    if verdict == "confirmed":
        return Check(name="machine", status="ok", detail=f"{detail}; the claim was confirmed here")
    return Check(
        name="machine",
        status="unproven",
        detail=f"{detail}: outputs may differ from those that were proven; pass the data",
    )


def _batch_of(manifest: Manifest) -> int:
    return fixed_batch(manifest.signature) or manifest.recipe.deploy.batch


def _ratio(found: Speedup) -> str:
    ratio = found.ratio
    return f"{ratio.estimate:.2f}× [{ratio.low:.2f}, {ratio.high:.2f}]"


def _silent(line: str) -> None:
    """No progress view listens."""
