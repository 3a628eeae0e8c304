"""Profile a model on each engine, or a bundle beside its original."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from strop import data as datasets
from strop.errors import InputError, StropError
from strop.measure import bound, describe, peaks
from strop.models.model import Model
from strop.profiling.advice import advise
from strop.profiling.opening import Subject, import_one, is_bundle, open_bundle, open_model
from strop.profiling.record import EngineProfile, Operator, Peaks, Profile, Quantisation
from strop.profiling.slowing import compare
from strop.profiling.watching import MemoryWatch
from strop.records import Signature, Target
from strop.search import Request
from strop.search.request import text_of
from strop.search.workspace import reason_of, rethrown
from strop.workers import Child, Pool

_MEMORY_SHARE = 0.8
_PATIENCE = 120.0  # seconds that loading, or one call, may take
_TOLD = ("name", "operator", "kernel", "precision", "seconds", "low", "high")
_TIMED = 20e-6  # seconds from which a profiler's microseconds are exact enough for a rate
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def profile(
    model: Any,
    data: Any,
    *,
    against: Any = None,
    engines: Sequence[str] | None = None,
    batch: int = 1,
    threads: int | None = None,
    runs: int = 100,
    measure: bool = True,
    reader: str | None = None,
    preprocess: str | None = None,
    renames: Mapping[str, str] | None = None,
    trust: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Profile:
    """Find out where the time of a call goes.

    Parameters
    ----------
    model
        As :func:`strop.compare` takes it. A plain model runs on every engine that can, with the
        engine's defaults; a bundle on its own engine, as it was delivered.
    data
        The examples; one batch of them is what runs.
    against
        The float original of a quantised model or bundle: it is profiled on the same engine (the
        fastest one that tells its operators, where the model runs on several), and what
        quantisation slows is told.
    engines
        Names of the engines to profile a plain model on; None means all that are installed.
    batch
        Examples a call, unless the model has a fixed batch.
    runs
        Calls that count, once without and once under the profiler; fewer where they take long.
    measure
        Whether to measure this machine's peaks, which takes some seconds.

    Raises
    ------
    InputError
        When a model or the examples cannot be read, or no engine can profile the model.

    Examples
    --------
    >>> found = profile("model.onnx", "data.npz")  # doctest: +SKIP
    >>> print(found.advice[0].text)  # doctest: +SKIP
    """
    _check(batch, threads, runs)
    machine = describe()
    target = Target(machine=machine, batch=batch, threads=threads)
    request = Request(
        model=model,
        data=data,
        within=0.5,  # nothing is tested against it
        output="",
        reader=reader,
        preprocess=preprocess,
        renames=renames,
        trust=trust,
    )
    notes: list[str] = []
    bundled = is_bundle(model)
    if engines and bundled:
        raise InputError("a bundle has an engine of its own", hint="leave --engine out")
    with tempfile.TemporaryDirectory(prefix="strop-profile-") as scratch:
        folder = Path(scratch)
        original: tuple[Model, np.ndarray | None] | None = None
        reference: list[Subject] = []
        skipped: dict[str, str] = {}
        with Pool(
            memory_limit=int(machine.memory_bytes * _MEMORY_SHARE), cpus=machine.cpus
        ) as pool:
            say("reading the model")
            if against is not None:
                original = import_one(request, against, pool, folder / "original")
            if bundled:
                subjects = [
                    open_bundle(
                        Path(model).resolve(), target, trust, original[0] if original else None
                    )
                ]
            else:
                given = import_one(request, model, pool, folder / "model")
                subjects, skipped = open_model(*given, target, engines, pool, folder / "built")
            if original is not None:
                names = [subject.engine for subject in subjects]
                reference, _ = open_model(*original, target, names, pool, folder / "reference")
            arrays = _batch(request, subjects[0].spec.signature, target, notes)
        found, refused = _profile_all(subjects, arrays, runs, say)
        skipped.update(refused)
        quantisation = None
        if against is not None:
            told = next((one for one in found if not one.reason), None)
            if told is None:
                notes.append(
                    "what quantisation slows is told by times of operators: there are none"
                )
            else:
                same = [subject for subject in reference if subject.engine == told.engine]
                if not same:
                    raise InputError(f"{told.engine} cannot run the original, only the model")
                before, _ = _profile_all(same, arrays, runs, say, role="the original")
                quantisation = compare(told, before[0])
    ceiling = None
    if measure:
        say("measuring the peaks of this machine")
        seen = peaks(threads=target.thread_count)
        timed = [*found, *([quantisation.float_profile] if quantisation else [])]
        ceiling = Peaks(
            fp32=_best(seen.fp32, timed, integers=False),
            int8=_best(seen.int8, timed, integers=True),
            bandwidth=seen.bandwidth,
            threads=seen.threads,
        )
        found = [_with_roofline(one, ceiling) for one in found]
        if quantisation is not None:
            quantisation = _replaced(quantisation, ceiling)
    notes += _notes(subjects, found)
    return Profile(
        model="/".join(Path(model).resolve().parts[-2:]) if bundled else text_of(model),
        data=text_of(data),
        batch=next(iter(arrays.values())).shape[0] if arrays else batch,
        threads=target.thread_count,
        runs=runs,
        engines=tuple(found),
        quantisation=quantisation,
        peaks=ceiling,
        advice=advise(found, quantisation),
        skipped=skipped,
        notes=tuple(notes),
        machine=machine,
    )


def _batch(
    request: Request, signature: Signature, target: Target, notes: list[str]
) -> dict[str, np.ndarray]:
    dataset = datasets.read(
        request.data,
        signature,
        reader=request.reader,
        preprocess=request.preprocess,
        trust=request.trust,
        renames=request.renames,
    )
    notes += datasets.check(dataset, signature)
    fixed = [
        spec.shape[0] for spec in signature.inputs if spec.shape and isinstance(spec.shape[0], int)
    ]
    size = fixed[0] if fixed else target.batch
    if fixed and fixed[0] != target.batch:
        notes.append(f"the model has a fixed batch of {fixed[0]}: that is what was timed")
    return dict(dataset.inputs(np.arange(size) % len(dataset)))


def _profile_all(
    subjects: Sequence[Subject],
    arrays: dict[str, np.ndarray],
    runs: int,
    say: Callable[[str], None],
    role: str = "the model",
) -> tuple[list[EngineProfile], dict[str, str]]:
    """The profiles, the fastest call first, and why an engine gave none."""
    found: list[EngineProfile] = []
    refused: dict[str, str] = {}
    for subject in subjects:
        say(f"profiling {role} on {subject.engine}")
        try:
            found.append(_profile_one(subject, arrays, runs))
        except StropError as error:
            if len(subjects) == 1:
                raise
            refused[subject.engine] = reason_of(error)
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise InputError(f"no engine can profile the model ({reasons})")
    found.sort(key=lambda one: one.call_seconds)
    return found, refused


def _profile_one(subject: Subject, arrays: dict[str, np.ndarray], runs: int) -> EngineProfile:
    threads = str(subject.spec.placement.threads)
    with (
        Child(
            name="profile",
            env=dict.fromkeys(_THREAD_VARIABLES, threads),
            cpus=describe().cpus if sys.platform == "linux" else None,
        ) as child,
        MemoryWatch(child) as watch,
        rethrown(),
    ):
        told = child.call(
            "strop.profiling.jobs:run",
            timeout=_PATIENCE * (1 + 2 * runs),
            on_event=watch.hear,
            spec=subject.spec.to_dict(),
            payload=subject.payload,
            arrays=arrays,
            runs=runs,
            graph=None if subject.graph is None else str(subject.graph),
            own_graph=subject.own_graph,
        )
    call = float(np.median(told["seconds"]))
    inside = sum(one["seconds"] for one in told["operators"])
    whole = call if told["reason"] else inside + told["outside_seconds"]
    operators = tuple(
        Operator(
            **{name: one[name] for name in _TOLD},
            nodes=tuple(one["nodes"]),
            share=one["seconds"] / whole if whole else 0.0,
            flops=one["flops"],
            bytes_moved=one["bytes_moved"],
            roofline=None,
            side=None,
        )
        for one in told["operators"]
    )
    return EngineProfile(
        engine=subject.engine,
        recipe=subject.recipe,
        calls=len(told["seconds"]),
        call_seconds=call,
        profiled_seconds=whole,
        operators=operators,
        outside_seconds=told["outside_seconds"],
        unmatched=sum(not operator.nodes for operator in operators),
        quantised=any(operator.precision == "int8" for operator in operators),
        memory=watch.samples(),
        peak_memory=watch.peak(),
        reason=told["reason"],
    )


def _best(measured: float, found: Sequence[EngineProfile], *, integers: bool) -> float:
    """The best rate seen, in the large product or in any operator: a peak is no less than that."""
    rates = [
        operator.flops / operator.seconds
        for one in found
        for operator in one.operators
        if operator.flops
        and operator.seconds >= _TIMED
        and (operator.precision == "int8") == integers
    ]
    return max([measured, *rates])


def _with_roofline(found: EngineProfile, ceiling: Peaks) -> EngineProfile:
    operators = tuple(_against(operator, ceiling) for operator in found.operators)
    return found.model_copy(update={"operators": operators})


def _against(operator: Operator, ceiling: Peaks) -> Operator:
    if operator.flops is None or not operator.seconds:
        return operator
    peak = ceiling.int8 if operator.precision == "int8" else ceiling.fp32
    limit = bound(operator.flops, operator.bytes_moved or 0, peak, ceiling.bandwidth)
    if not limit.seconds:
        return operator
    return operator.model_copy(
        update={"roofline": limit.seconds / operator.seconds, "side": limit.side}
    )


def _replaced(quantisation: Quantisation, ceiling: Peaks) -> Quantisation:
    profiled = _with_roofline(quantisation.float_profile, ceiling)
    return quantisation.model_copy(update={"float_profile": profiled})


def _notes(subjects: Sequence[Subject], found: Sequence[EngineProfile]) -> list[str]:
    notes = []
    for subject in subjects:
        told = [
            operator for one in found if one.engine == subject.engine for operator in one.operators
        ]
        if told and subject.graph is None and all(one.flops is None for one in told):
            notes.append(
                f"{subject.engine}: operations are counted in an ONNX graph, which this artefact "
                "does not have; --against ORIGINAL.onnx gives one"
            )
    for one in found:
        if one.profiled_seconds > 1.5 * one.call_seconds:
            notes.append(
                f"{one.engine}: a call takes {one.profiled_seconds / one.call_seconds:.1f} times "
                "as long under the profiler as without: operators compare with each other, but "
                "their seconds are high"
            )
    return notes


def _check(batch: int, threads: int | None, runs: int) -> None:
    if batch < 1 or (threads is not None and threads < 1):
        raise InputError("batch and threads must be at least 1")
    if runs < 1:
        raise InputError(f"runs is {runs}: it must be at least 1", hint="write --runs 100")
