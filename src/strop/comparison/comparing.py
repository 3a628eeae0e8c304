"""Score two models on the same examples, then time them in pairs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from strop import data as datasets
from strop import metrics
from strop.comparison.difference import Scored, describe_difference
from strop.comparison.opening import Opened, open_side, recorded_preprocess
from strop.comparison.record import Comparison
from strop.data import Dataset
from strop.errors import InputError
from strop.measure import Conditions, describe, pair, speedup, summarise
from strop.metrics import Metric
from strop.records import Latency, Signature, Target
from strop.search import Request, parse_seconds
from strop.search.request import text_of
from strop.search.workspace import Clock, rethrown
from strop.workers import Pool

_FIRST = 8
_PACE_ROWS = 64
_TIMING_SHARE = 0.5
_READY = "none"
_MEMORY_SHARE = 0.8


def compare(
    a: Any,
    b: Any,
    data: Any,
    *,
    metric: str | None = None,
    batch: int = 1,
    threads: int | None = None,
    launches: int = 5,
    confidence: float = 0.95,
    budget: str | float | None = None,
    reader: str | None = None,
    preprocess: str | None = None,
    renames: Mapping[str, str] | None = None,
    trust: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Score and time two models on the same examples.

    Parameters
    ----------
    a, b
        Models as :func:`strop.optimize` takes them, or paths of bundles. A bundle runs on its own
        engine, a plain model in its native runtime: ONNX Runtime, eager PyTorch for modules,
        LiteRT for ``.tflite``, OpenVINO for SavedModels. `a` is the reference of metrics that need
        one.
    data
        Path of the examples, or a mapping of arrays; all of them are scored.
    metric
        A metric's name or ``file.py:fn``; None chooses by the data and the outputs of `a`.
    batch
        Examples a call when timing.
    threads
        Threads of one inference; None means one a granted core.
    launches
        Pairs of fresh processes to time; 0 leaves timing out.
    confidence
        Of the intervals and the bound.
    budget
        Wall seconds, or a text such as ``"2m"``: fewer examples are scored, and fewer launches
        timed, where all would take longer. None takes the time that all of it takes.
    preprocess
        As :func:`strop.data.read` takes it. Where a bundle records one, None means that one, and
        ``"none"`` leaves it out for data that are ready.
    reader, renames
        As :func:`strop.data.read` takes them.
    say
        Takes short lines about what goes on.

    Raises
    ------
    InputError
        When a model or the examples cannot be read, or the two do not take and give the same.

    Examples
    --------
    >>> found = compare("model.onnx", "out/bundle", "data.npz")  # doctest: +SKIP
    >>> found.difference.estimate, found.speedup.ratio.estimate  # doctest: +SKIP
    (-0.002, 2.31)
    """
    _check(batch, threads, launches, confidence)
    clock = None if budget is None else Clock(parse_seconds(budget), reserve=_TIMING_SHARE)
    machine = describe()
    target = Target(machine=machine, batch=batch, threads=threads)
    request = Request(
        model=a,
        data=data,
        within=0.5,  # nothing is tested against it
        output="",
        metric=metric,
        reader=reader,
        preprocess=None if preprocess == _READY else preprocess,
        renames=renames,
        trust=trust,
    )
    notes: list[str] = []
    limits: dict[str, Any] = {
        "memory_limit": int(machine.memory_bytes * _MEMORY_SHARE),
        "cpus": machine.cpus,
        "env": {"OMP_NUM_THREADS": str(target.thread_count)},
    }
    with tempfile.TemporaryDirectory(prefix="strop-compare-") as scratch:
        folder = Path(scratch)
        if preprocess is None:
            recorded, whose = recorded_preprocess((a, b), folder, trust=trust)
            if recorded is not None:
                request = replace(request, preprocess=recorded)
                notes.append(f"the examples went through the preprocessing that {whose} records")
        with Pool(**limits) as pool:
            say("reading the models")
            first = open_side(request, a, target, pool, folder / "a")
            second = open_side(request, b, target, pool, folder / "b")
            _check_alike(first, second)
            say("reading the examples")
            dataset = _read(request, first.spec.signature, folder)
            notes += datasets.check(dataset, first.spec.signature)
            chosen, names, note = _resolve(request, dataset, first, second, pool)
            notes += [note] if note else []
            if clock is not None:
                whole = dataset
                left = clock.race_left if launches else clock.left
                dataset = _affordable(dataset, left, first, second, pool)
                if len(dataset) < len(whole):
                    notes.append(
                        f"the budget has time for {len(dataset):,} of {len(whole):,} examples"
                    )
            say(f"scoring {len(dataset):,} examples")
            scored = _score(dataset, chosen, first, second, pool, folder / "reference")
        size = timed_batch(first.spec.signature, second.spec.signature, batch)
        latencies: tuple[Latency | None, Latency | None] = (None, None)
        ratio = None
        if launches:
            timing = pair(
                first.spec,
                second.spec,
                dataset.inputs(np.arange(size) % len(dataset)),
                launches=launches,
                payloads=(first.pickled, second.pickled),
                emit=say,
                conditions=Conditions(
                    deadline=None if clock is None else time.monotonic() + max(clock.left, 0.0)
                ),
            )
            if timing.shortened:
                notes.append(
                    f"the budget had time for {timing.launches} of {launches} paired launches"
                )
            if timing.launches:
                ratio = speedup(timing, "a", confidence=confidence)
                latencies = (
                    summarise(timing.a_seconds, batch=size, threads=first.spec.placement.threads),
                    summarise(timing.b_seconds, batch=size, threads=second.spec.placement.threads),
                )
        if extra := [name for name in second.spec.signature.output_names if name not in names]:
            notes.append(f"outputs that only B has are not compared: {', '.join(extra)}")
        groups = np.asarray(dataset.groups)
        difference, may_lose, method = describe_difference(scored, chosen.kind, groups, confidence)
        return Comparison(
            a=first.side(scored.before),
            b=second.side(scored.after),
            data=text_of(data),
            data_digest=dataset.digest,
            metric=chosen.name,
            kind=chosen.kind,
            examples=len(dataset),
            groups=len(np.unique(groups)),
            difference=difference,
            confidence=confidence,
            may_lose=may_lose,
            method=method,
            lost=int(np.sum(scored.drops > 0)),
            won=int(np.sum(scored.drops < 0)),
            changed=int(scored.changed.sum()),
            max_relative_error=float(scored.errors.max()),
            batch=size,
            a_latency=latencies[0],
            b_latency=latencies[1],
            speedup=ratio,
            notes=tuple(notes),
            machine=machine,
        )


def _affordable(
    dataset: Dataset, left: float, first: Opened, second: Opened, pool: Pool
) -> Dataset:
    """As many examples as can be scored in `left` seconds, by the pace of both over a few.

    Which ones is decided by the order of their groups' digests, before any is scored.
    """
    few = np.arange(min(_PACE_ROWS, len(dataset)))
    seconds = 0.0
    for side in (first, second):
        with rethrown():
            seconds += pool.child("evaluate").call(
                "strop.search.jobs:pace",
                spec=side.spec.to_dict(),
                payload=side.payload,
                dataset=dataset.describe(),
                rows=few,
                batch=side.batch,
            )
    return datasets.first_groups(dataset, max(_FIRST, int(left * len(few) / max(seconds, 1e-9))))


def _read(request: Request, signature: Signature, folder: Path) -> Dataset:
    dataset = datasets.read(
        request.data,
        signature,
        reader=request.reader,
        preprocess=request.preprocess,
        trust=request.trust,
        renames=request.renames,
    )
    # Children open the examples by path, so those in memory go to scratch once.
    return dataset if dataset.stored else dataset.save_npz(folder / "data.npz")


def _resolve(
    request: Request, dataset: Dataset, first: Opened, second: Opened, pool: Pool
) -> tuple[Metric, tuple[str, ...], str]:
    """The metric, the names of the outputs that it may look at, and what to know about it."""
    rows = np.arange(min(_FIRST, len(dataset)))
    found = []
    for side in (first, second):
        with rethrown():
            found.append(
                pool.child("evaluate").call(
                    "strop.search.jobs:first_outputs",
                    spec=side.spec.to_dict(),
                    payload=side.payload,
                    dataset=dataset.describe(),
                    rows=rows,
                )
            )
    before, after = found
    for name, values in before.items():
        if after[name].shape[1:] != values.shape[1:]:
            raise InputError(
                f"output '{name}' of A is {list(values.shape[1:])} an example, "
                f"of B {list(after[name].shape[1:])}",
                hint="compare models that give the same",
            )
    chosen = metrics.resolve(
        request.metric,
        outputs=before,
        has_target=dataset.has_target,
        targets=dataset.targets(rows),
        trust=request.trust,
    )
    note = "" if request.metric else metrics.caveat(chosen, before)
    return chosen, tuple(before), note


def _score(
    dataset: Dataset, metric: Metric, first: Opened, second: Opened, pool: Pool, folder: Path
) -> Scored:
    described: dict[str, Any] = {"dataset": dataset.describe(), "metric": metric.describe()}
    with rethrown():
        reference = pool.child("evaluate").call(
            "strop.search.jobs:write_reference",
            spec=first.spec.to_dict(),
            payload=first.payload,
            batch=first.batch,
            folder=str(folder),
            **described,
        )
        found = pool.child("evaluate").call(
            "strop.search.jobs:evaluate",
            spec=second.spec.to_dict(),
            payload=second.payload,
            batch=second.batch,
            reference=str(folder),
            reference_names=reference["names"],
            limit=None,
            **described,
        )
    if metric.kind == "set":
        before, after = float(found["reference_value"]), float(found["value"])
        return Scored(before, after, np.zeros(0), found["errors"], found["changed"])
    mine, theirs = np.asarray(reference["scores"]), np.asarray(found["scores"])
    return Scored(
        float(mine.mean()), float(theirs.mean()), mine - theirs, found["errors"], found["changed"]
    )


def timed_batch(a: Signature, b: Signature, wanted: int) -> int:
    """The batch to time: the one asked for, unless a model has a fixed one."""
    fixed = {
        spec.shape[0]
        for spec in (*a.inputs, *b.inputs)
        if spec.shape and isinstance(spec.shape[0], int)
    }
    if len(fixed) > 1:
        sizes = " and ".join(map(str, sorted(fixed)))
        raise InputError(f"the models have different fixed batch sizes, {sizes}")
    return next(iter(fixed), wanted)


def _check_alike(first: Opened, second: Opened) -> None:
    a, b = first.spec.signature, second.spec.signature
    takes = [sorted((spec.name, spec.dtype) for spec in signature.inputs) for signature in (a, b)]
    if takes[0] != takes[1]:
        raise InputError(
            f"the models take different inputs: A is {a}, B is {b}",
            hint="compare models whose inputs have the same names and types",
        )
    missing = [name for name in a.output_names if name not in b.output_names]
    if missing:
        raise InputError(
            f"B has no output {', '.join(map(repr, missing))}: A is {a}, B is {b}",
            hint="compare models whose outputs have the same names",
        )


def _check(batch: int, threads: int | None, launches: int, confidence: float) -> None:
    if batch < 1 or (threads is not None and threads < 1):
        raise InputError("batch and threads must be at least 1")
    if launches < 0:
        raise InputError(f"launches is {launches}: it must not be negative")
    if not 0.5 <= confidence < 1:
        raise InputError(
            f"the confidence {confidence} is not at least 0.5 and below 1",
            hint="write --confidence 95%",
        )
