"""The output folder: refused before it is touched, replaced as a whole, resumed when asked."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from strop import bundle, engines
from strop.errors import InputError
from strop.measure import PairTiming
from strop.models import module_files
from strop.records import (
    Candidate,
    DataSummary,
    Event,
    OperatingPoint,
    Recipe,
    Result,
    Trial,
    TrialFinished,
)
from strop.search.deliver import Delivery
from strop.search.finals import Final
from strop.search.journal import read_journal
from strop.search.objective import pareto
from strop.search.prove import Proof
from strop.search.race import Race
from strop.search.tuning import in_words
from strop.search.workspace import Workspace

_MARK = "journal.jsonl"
_OURS = ("journal.jsonl", "result.json", "report.html", "profile.json", "profile.html", "bundle")
_PROBE_BYTES = 64 * 2**10
_SAMPLE = 8
_SAMPLE_BYTES = 2 * 2**20


def check(folder: Path, *, resume: bool) -> list[Event]:
    """Refuse a folder that cannot or must not be written; return an interrupted run's events.

    Raises
    ------
    InputError
        When the folder holds something that is not ours, or cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"the output '{folder}' is a file", hint="name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _MARK).exists():
        raise InputError(
            f"the output folder '{folder}' holds files that strop has not written",
            hint="name an empty or a new folder",
        )
    parent = folder
    while not parent.exists():
        parent = parent.parent
    if refused := _refused(parent):
        raise InputError(
            f"the output folder '{folder}' cannot be written: {refused}",
            hint="name another with --output",
        )
    if not resume:
        return []
    events = list(read_journal(folder / _MARK))
    if not events:
        raise InputError(
            f"there is no interrupted search in '{folder}'", hint="leave --resume away"
        )
    return events


def open_folder(folder: Path, *, resume: bool) -> None:
    """Make the folder; an earlier run's files go unless that run is resumed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if resume:
            return
        for name in _OURS:
            path = folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"the output folder '{folder}' cannot be written: {error.strerror}",
            hint="name another with --output",
        ) from error


def write(workspace: Workspace, race: Race, delivery: Delivery, folder: Path) -> Result:
    """Write the bundle and ``result.json``; return the result."""
    result = _result(workspace, race, delivery)
    prove_rows = workspace.roles["prove"]
    sample = np.arange(min(_SAMPLE, len(prove_rows)))
    inputs = prove_rows.inputs(sample)
    while len(sample) > 1 and sum(array.nbytes for array in inputs.values()) > _SAMPLE_BYTES:
        sample = sample[: len(sample) // 2]
        inputs = {name: array[: len(sample)] for name, array in inputs.items()}
    outputs = workspace.call(
        "evaluate",
        "first_outputs",
        spec=delivery.original.built.spec.to_dict(),
        payload=workspace.payload_for(delivery.original.built.spec),
        dataset=prove_rows.describe(),
        rows=sample,
    )
    built = delivery.delivered.built
    form = next(
        form
        for form, main in (
            ("onnx", ".onnx"),
            ("openvino", ".xml"),
            ("exported", ".pt2"),
            ("inductor", ".so"),
            ("tflite", ".tflite"),
            ("executorch", ".pte"),
            ("module", ".json"),
        )
        if built.spec.artifact.endswith(main)
    )
    if form != "module":
        bundle.write(
            folder / result.bundle,
            bundle.Contents(
                name=Path(workspace.task.model.partition(":")[0]).stem,
                artifact=Path(built.spec.artifact),
                form=form,
                signature=built.spec.signature,
                recipe=built.recipe,
                claim=delivery.claim,
                evidence=delivery.delivered.evidence,
                latency_curve=delivery.curve,
                machine=workspace.target.machine,
                original_digest=workspace.model.digest,
                lineage=_lineage(workspace, delivery, built.model.meta),
                result=result.to_dict(),
                scores=_scores(workspace, delivery, race),
                timings={name: _raw(timing) for name, timing in delivery.timings.items()},
                trials=[trial.to_dict() for trial in race.trials],
                sample_inputs=inputs,
                sample_outputs=outputs,
                preprocess=workspace.preprocess,
                processor=_processor(workspace),
            ),
        )
    _replace(folder / "result.json", result.to_json(indent=1))
    return result


def discard_empty(folder: Path) -> None:
    """Take the folder back where not one event came to be written."""
    mark = folder / _MARK
    with contextlib.suppress(OSError):
        if not mark.stat().st_size:
            mark.unlink()
            folder.rmdir()  # fails, and is left alone, where it holds anything else


def discard_fruitless(folder: Path) -> None:
    """Take the folder back where no trial has ended: there is nothing to go on from."""
    mark = folder / _MARK
    if not any(isinstance(event, TrialFinished) for event in read_journal(mark)):
        with contextlib.suppress(OSError):
            mark.unlink(missing_ok=True)
            folder.rmdir()  # fails, and is left alone, where it holds anything else


def _replace(path: Path, text: str) -> None:
    """Write a file aside, sync it, and put it in place: it is whole or not there."""
    aside = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
    except OSError as error:
        raise InputError(
            f"'{path}' cannot be written: {error.strerror}",
            hint="make room, then go on with --resume",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def _result(workspace: Workspace, race: Race, delivery: Delivery) -> Result:
    clock, task = workspace.clock, workspace.task
    elapsed = clock.elapsed
    phases = dict(clock.phases)
    phases["total"] = elapsed
    phases["own"] = max(0.0, elapsed - sum(clock.phases.values()))
    chosen = delivery.delivered.trial.number
    trials = tuple(
        trial.model_copy(update={"status": "chosen"}) if trial.number == chosen else trial
        for trial in race.trials
    )
    return Result(
        status="improved" if delivery.improved else "unimproved",
        reason=delivery.reason,
        claim=delivery.claim,
        model=task.model,
        others=task.others,
        signature=workspace.model.signature,
        data=DataSummary(
            source=task.data,
            content_digest=task.data_digest,
            examples=sum(len(dataset) for dataset in workspace.roles.values()),
            roles={role: len(dataset) for role, dataset in workspace.roles.items()},
            metric=workspace.metric.name,
        ),
        target=workspace.target,
        machine=workspace.target.machine,
        tolerance=workspace.tolerance,
        confidence=task.confidence,
        original=_candidate(delivery.original),
        equivalent=_candidate(delivery.equivalent),
        delivered=_candidate(delivery.delivered),
        near_miss=delivery.near_miss,
        operation=_operation(workspace, delivery.delivered),
        pareto=pareto(race.trials),
        trials=trials,
        warnings=tuple(workspace.warnings),
        engines_left_out=_engines_left_out(race),
        techniques_left_out={
            name: reason for name, reason in race.rejected if name not in engines.names()
        },
        seconds=phases,
        seed=task.seed,
        budget_seconds=clock.budget,
    )


def _engines_left_out(race: Race) -> dict[str, str]:
    """The engines that no trial ran on, and why."""
    reasons = dict(race.rejected)
    ran = {trial.recipe.deploy.engine for trial in race.trials}
    return {
        name: reasons.get(name, "the search ended before it was tried")
        for name in engines.names()
        if name not in ran
    }


def _operation(workspace: Workspace, delivered: Final) -> str:
    """The delivered's settings and what they give, in words; empty where it was not timed."""
    latency = next(iter(delivered.evidence.latency), None)
    if latency is None:
        return ""
    point = OperatingPoint(
        batch=latency.batch,
        threads=latency.threads,
        streams=latency.streams,
        p50_seconds=latency.p50.estimate,
        p99=latency.p99,
        throughput=latency.throughput,
        calls=latency.calls,
    )
    return in_words(point, workspace.target.max_p99_seconds)


def _candidate(final: Final) -> Candidate:
    recipe: Recipe = final.built.recipe
    return Candidate(recipe=recipe, text=str(recipe), evidence=final.evidence)


def _scores(workspace: Workspace, delivery: Delivery, race: Race) -> dict[str, np.ndarray]:
    """Per-example scores of the delivered: enough to compute its claim again."""
    delivered: Trial = delivery.delivered.trial
    proofs: list[Proof] = [
        proof for proof in delivery.proofs if proof.trial.number == delivered.number
    ]
    prove = workspace.roles["prove"]
    scores: dict[str, np.ndarray] = {
        "prove/rows": np.asarray(prove.rows),
        "prove/groups": np.asarray(prove.groups),
        "prove/keys": np.asarray(prove.keys),
    }
    if proofs:
        scored = proofs[0].scored
        scores["prove/reference"] = scored.reference
        scores["prove/delivered"] = scored.scores
        scores["prove/errors"] = scored.errors
        scores["prove/changed"] = scored.changed
        if (resamples := proofs[0].resamples) is not None:
            scores["prove/estimate"] = np.array([resamples.estimate])
            scores["prove/draws"] = resamples.draws
            scores["prove/left_out"] = resamples.left_out
    if delivered.number in race.drops:
        scores["search/drops"] = race.drops[delivered.number]
        scores["search/rows"] = np.asarray(workspace.roles["search"].rows)
        scores["search/groups"] = np.asarray(workspace.roles["search"].groups)
    return scores


def _processor(workspace: Workspace) -> Path | None:
    """The tokeniser or image processor that came with the original, if one did."""
    folder = workspace.model.path / module_files.PROCESSOR
    return folder if folder.is_dir() else None


def _raw(timing: PairTiming) -> dict[str, Any]:
    return {
        "batch": timing.batch,
        "b_batch": timing.batches[1],
        "shortened": timing.shortened,
        "settled": timing.settled,
        "concurrent": timing.concurrent,
        "quads": [quads.tolist() for quads in timing.quads],
        "a_seconds": [seconds.tolist() for seconds in timing.a_seconds],
        "b_seconds": [seconds.tolist() for seconds in timing.b_seconds],
        "a_used": [used.to_dict() for used in timing.a_used],
        "b_used": [used.to_dict() for used in timing.b_used],
    }


def _lineage(workspace: Workspace, delivery: Delivery, meta: Any) -> dict[str, Any]:
    task = workspace.task
    return {
        "model": task.model,
        "others": [network.to_dict() for network in task.others],
        "data": task.data,
        "data_digest": task.data_digest,
        "metric": task.metric,
        "seed": task.seed,
        "plan_digest": next((proof.salt for proof in delivery.proofs if proof.salt), ""),
        "roles": {role: dataset.digest for role, dataset in workspace.roles.items()},
        "meta": json.loads(json.dumps(dict(meta), default=str)),
    }


def _refused(folder: Path) -> str:
    """Why the folder cannot be written to, whatever its permissions say; empty when it can."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return os.strerror(errno.EACCES)
    try:
        # On a full disk a file can often be made, and only its content finds no room.
        with tempfile.NamedTemporaryFile(prefix=".strop-", dir=folder, buffering=0) as probe:
            left = _PROBE_BYTES
            while left:  # the last bytes that fit are taken without an error
                left -= probe.write(bytes(left))
            os.fsync(probe.fileno())
    except OSError as error:
        return error.strerror or str(error)
    return ""
