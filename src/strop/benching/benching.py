"""A bundle under MLPerf LoadGen's scenarios, in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from strop import data as datasets
from strop.benching.record import Bench, Scenario, ScenarioResult
from strop.benching.scenarios import SCENARIOS, Plan
from strop.benching.spending import Spending
from strop.bundle import read_manifest
from strop.bundle.layout import MODEL, verify_files
from strop.bundle.loader import session_spec
from strop.errors import BundleError, InputError
from strop.measure import Usage, describe, idle_watts, meter, watts
from strop.records import Manifest, Price, SessionSpec, Signature
from strop.workers import Child, ChildFailed

__all__ = ["SCENARIOS", "bench"]

_SAMPLE = "evidence/sample.npz"
_MOST_SAMPLES = 1024
_BATCH = 32
_SLO_CALLS = 10
"""Calls that the server scenario's bound is, where none was asked for."""
_OFFICIAL = 600.0
"""Seconds that MLPerf's rules ask of a submission."""
_PACE_SECONDS = 1.0
_PATIENCE = 600.0
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def bench(
    bundle: str | Path,
    data: Any = None,
    *,
    scenarios: Sequence[Scenario] = tuple(SCENARIOS),
    slo: float | None = None,
    rate: float | None = None,
    min_duration: float = 60.0,
    batch: int | None = None,
    threads: int | None = None,
    price: Price | None = None,
    watts_per_core: float | None = None,
    logs: str | Path | None = None,
    reader: str | None = None,
    preprocess: str | None = None,
    renames: Mapping[str, str] | None = None,
    trust: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Bench:
    """Run LoadGen's scenarios on a bundle.

    Parameters
    ----------
    data
        Examples that queries draw from, 1024 at most; None takes the samples in the bundle.
    slo
        Seconds that the scenario's percentile may take: the 90th (SingleStream) or 99th
        (MultiStream, Server). None chooses ten times a call for the server alone.
    rate
        Queries a second of the server scenario; None searches for the highest valid one.
    min_duration
        Seconds that each run must last.
    batch
        The most examples in one call, in the scenarios that offer several at a time; None means
        32, or what the model fixes.
    price
        Of this machine: what inferences cost on it is told as well.
    watts_per_core
        Watts of one busy logical CPU where energy is estimated; None means by the processor.
    logs
        A folder for LoadGen's own summary and detail logs of the runs that the results are of, in
        a folder of its own for each scenario.

    Raises
    ------
    MissingExtra
        When mlcommons-loadgen is not installed.
    InputError, BundleError
        When the bundle or the examples cannot be read, or the logs cannot be written.

    Examples
    --------
    >>> found = bench("out/bundle", scenarios=["Offline"], min_duration=10)  # doctest: +SKIP
    >>> found.scenarios[0].valid, found.scenarios[0].value  # doctest: +SKIP
    (True, 2410.7)
    """
    _check(scenarios, slo, rate, min_duration, batch, threads)
    path = Path(bundle)
    kept = None if logs is None else _folder(Path(logs))
    machine = describe()
    manifest = read_manifest(path)
    spec = session_spec(path, manifest, trust=trust, threads=threads)
    if wrong := verify_files(path, manifest, MODEL):
        raise BundleError(
            f"the bundle '{path}' is damaged: {wrong[0]}", hint="copy or build it again"
        )
    samples, source = _samples(path, data, manifest.signature, reader, preprocess, renames, trust)
    most = _most(manifest, batch)
    notes: list[str] = []
    if min_duration < _OFFICIAL:
        notes.append(
            f"runs last {min_duration:g} s: LoadGen calls them valid, a submission to MLPerf "
            f"needs {_OFFICIAL:g} s"
        )
    streams = spec.placement.streams
    counters = meter(spec.placement.device)
    spending = Spending(
        watts(machine, watts_per_core),
        spec.placement.device,
        counters.name if counters else "",
        idle_watts(counters) if counters else None,
        price,
    )
    results: list[ScenarioResult] = []
    with Child(
        name="bench",
        env=dict.fromkeys(_THREAD_VARIABLES, str(spec.placement.threads)),
        cpus=machine.cpus if sys.platform == "linux" else None,
    ) as child:
        say("loading the bundle")
        known = _call(
            child, "load", spec=SessionSpec.to_dict(spec), samples=samples, timeout=_PATIENCE
        )
        if streams > 1 and not known["thread_safe"]:
            streams = 1
        one = float(_call(child, "pace", batch=_unit(manifest), seconds=_PACE_SECONDS))
        full = float(_call(child, "pace", batch=most, seconds=_PACE_SECONDS))
        bound = slo
        if slo is None and "Server" in scenarios:
            bound = _SLO_CALLS * one
            notes.append(
                f"no --slo: the server scenario's bound is {_SLO_CALLS} times a call, "
                f"{bound * 1e3:.3g} ms"
            )

        told: list[Usage] = []

        def run(scenario: str, settings: Mapping[str, Any], trace: bool) -> dict[str, Any]:
            answer: dict[str, Any] = _call(
                child,
                "run",
                scenario=scenario,
                settings=dict(settings),
                batch=most,
                streams=streams,
                trace=trace,
                logs=None if kept is None else str(kept / scenario),
                timeout=_PATIENCE + 20 * min_duration,
            )
            told.append(Usage(**answer["used"]))
            return answer

        for scenario in scenarios:
            say(f"LoadGen: {scenario}")
            plan = Plan(
                min_duration=min_duration,
                slo=bound if scenario == "Server" else slo,
                rate=rate,
                call_seconds=one,
                per_second=most / full * streams,
            )
            found = SCENARIOS[scenario](run, plan)
            # The last run is the one that the result is of.
            results.append(spending.added(found, told[-1]))
    return Bench(
        bundle="/".join(path.resolve().parts[-2:]),
        recipe=str(manifest.recipe),
        data=source,
        samples=len(next(iter(samples.values()))),
        batch=most,
        threads=spec.placement.threads,
        streams=streams,
        loadgen=known["loadgen"],
        min_duration=min_duration,
        scenarios=tuple(results),
        notes=tuple(notes),
        machine=machine,
    )


def _folder(logs: Path) -> Path:
    """The folder made, before anything is measured that could not be written to it."""
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"LoadGen's logs cannot be written to '{logs}': {error.strerror}",
            hint="name another folder with --logs",
        ) from error
    return logs.absolute()


def _samples(
    path: Path,
    data: Any,
    signature: Signature,
    reader: str | None,
    preprocess: str | None,
    renames: Mapping[str, str] | None,
    trust: bool,
) -> tuple[dict[str, np.ndarray], str]:
    """Examples by input name, and where they come from."""
    if data is None:
        stored = path / _SAMPLE
        if not stored.is_file():
            raise InputError(
                f"the bundle '{path}' holds no samples", hint="pass examples with --data"
            )
        with np.load(stored, allow_pickle=False) as arrays:
            found = {name: arrays[f"inputs/{name}"] for name in signature.input_names}
        return found, f"the bundle's {_SAMPLE}"
    dataset = datasets.read(
        data, signature, reader=reader, preprocess=preprocess, trust=trust, renames=renames
    )
    datasets.check(dataset, signature)
    rows = np.arange(min(len(dataset), _MOST_SAMPLES))
    return dict(dataset.inputs(rows)), str(data) if isinstance(data, str | Path) else "arrays"


def _unit(manifest: Manifest) -> int:
    """Examples in the smallest call that the model takes."""
    dims = [spec.shape[0] for spec in manifest.signature.inputs if spec.shape]
    fixed = [dim for dim in dims if isinstance(dim, int)]
    return fixed[0] if fixed else 1


def _most(manifest: Manifest, asked: int | None) -> int:
    if manifest.signature.batch_is_dynamic:
        return asked or _BATCH
    fixed = _unit(manifest)
    if fixed > 1:
        raise InputError(
            f"the model takes batches of exactly {fixed}",
            hint="LoadGen's queries are of single examples: bench a model with a free batch",
        )
    if asked is not None and asked != fixed:
        raise InputError(f"the model takes batches of {fixed}", hint="leave --batch out")
    return fixed


def _call(child: Child, function: str, **params: Any) -> Any:
    """A call whose errors are strop's own again."""
    from strop import errors

    try:
        return child.call(f"strop.benching.jobs:{function}", **params)
    except ChildFailed as failure:
        kind = getattr(errors, failure.error_type, errors.StropError)
        if kind is errors.MissingExtra:
            raise errors.MissingExtra("mlcommons-loadgen", extra="bench") from failure
        raise kind(failure.error_message) from failure


def _check(
    scenarios: Sequence[str],
    slo: float | None,
    rate: float | None,
    min_duration: float,
    batch: int | None,
    threads: int | None,
) -> None:
    unknown = [name for name in scenarios if name not in SCENARIOS]
    if unknown or not scenarios:
        raise InputError(
            f"there is no scenario '{unknown[0] if unknown else ''}'",
            hint=f"known: {', '.join(SCENARIOS)}",
        )
    for name, value in (("slo", slo), ("rate", rate), ("min_duration", min_duration)):
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"{name} is {value}: it must be positive")
    if (batch is not None and batch < 1) or (threads is not None and threads < 1):
        raise InputError("batch and threads must be at least 1")
