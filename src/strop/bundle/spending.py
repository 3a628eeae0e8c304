"""Latency, energy and cost of the delivered, computed again from its raw launches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from strop.bundle.figure import Figure
from strop.records import Cost, Energy, Evidence, Interval

if TYPE_CHECKING:
    from strop.measure import PairTiming

_DELIVERED = ("delivered", "equivalent", "original")
"""What the delivered is called in the name of a pair; the last two where it is one of them."""


def spending(evidence: Evidence, timings: Mapping[str, Any]) -> Iterator[Figure]:
    """The figures of latency, energy, savings and cost.

    Nothing is said of what the manifest does not record, as manifests of earlier versions.
    """
    pairs = {name: _pair(raw) for name, raw in sorted(timings.items())}
    own = next((pair for name, pair in pairs.items() if _ends(name) and pair.launches), None)
    throughput = None
    for latency in evidence.latency[:1]:
        found = None if own is None else _latency(own, latency.threads, latency.streams)
        throughput = None if found is None else found.throughput
        for name in ("p50", "p99"):
            recorded = getattr(latency, name).estimate
            computed = None if found is None else getattr(found, name).estimate
            yield Figure(f"latency, {name}", recorded, computed, _missing(computed))
        yield Figure("throughput", latency.throughput, throughput, _missing(throughput))
    if evidence.energy is not None:
        yield from _energy(evidence.energy, own)
    for saved in evidence.savings:
        name = f"energy against {saved.against}"
        pair = next(
            (
                pairs[f"{saved.against}/{side}"]
                for side in _DELIVERED[:2]
                if f"{saved.against}/{side}" in pairs
            ),
            None,
        )
        yield from _interval(name, saved.ratio, None if pair is None else _saved(pair, saved.kind))
    if evidence.cost is not None:
        yield from _cost(evidence.cost, throughput)


def _energy(recorded: Energy, own: PairTiming | None) -> Iterator[Figure]:
    from strop.measure import Watts, energy

    found = None
    # What no counter counted cannot have been measured.
    counted = own is not None and all(used.joules for used in own.b_used)
    if own is not None and (recorded.kind == "estimated" or counted):
        found = energy(
            own.b_used,
            batch=own.batches[1],
            watts=Watts(recorded.watts_per_core or 1.0, ""),
            kind=recorded.kind,
            confidence=recorded.joules.confidence,
        )
    yield from _interval(
        "energy of an inference", recorded.joules, None if found is None else found.joules
    )


def _saved(pair: PairTiming, kind: Any) -> Interval | None:
    from strop.measure import saving

    found = saving(pair.a_used, pair.b_used, "", kind=kind, batches=pair.batches)
    return None if found is None else found.ratio


def _cost(recorded: Cost, throughput: float | None) -> Iterator[Figure]:
    from strop.measure import cost

    found = None
    if throughput is not None:
        found = cost(
            recorded.price,
            throughput,
            rate=recorded.rate,
            max_utilisation=recorded.max_utilisation,
        )
    computed = None if found is None else found.per_million
    yield Figure("cost of a million", recorded.per_million, computed, _missing(computed))
    if recorded.rate is not None:
        at_rate = None if found is None else found.per_million_at_rate
        yield Figure(
            "cost of a million at the rate",
            recorded.per_million_at_rate,
            at_rate,
            _missing(at_rate),
        )


def _latency(own: PairTiming, threads: int, streams: int) -> Any:
    from strop.measure import summarise

    return summarise(
        own.b_seconds,
        batch=own.batches[1],
        threads=threads,
        streams=streams,
        rate=own.rates[1] if own.concurrent else None,
    )


def _interval(name: str, recorded: Interval, computed: Interval | None) -> Iterator[Figure]:
    for part in ("estimate", "low", "high"):
        value = None if computed is None else float(getattr(computed, part))
        label = name if part == "estimate" else f"{name}, {part}"
        yield Figure(label, getattr(recorded, part), value, _missing(value))
        if value is None:
            return


def _missing(computed: float | None) -> str:
    return "what its launches used up is not in the bundle" if computed is None else ""


def _ends(name: str) -> bool:
    """Whether the delivered is the second of a pair."""
    return name.partition("/")[2] in _DELIVERED


def _pair(raw: Mapping[str, Any]) -> PairTiming:
    """The launches of a pair as they were timed."""
    from strop.measure import PairTiming, Usage

    used = {side: tuple(Usage(**launch) for launch in raw.get(f"{side}_used", ())) for side in "ab"}
    quads = tuple(np.asarray(launch, np.float64) for launch in raw["quads"])
    return PairTiming(
        log_ratios=np.zeros(len(quads)),
        quads=quads,
        a_seconds=tuple(np.asarray(calls, np.float64) for calls in raw["a_seconds"]),
        b_seconds=tuple(np.asarray(calls, np.float64) for calls in raw["b_seconds"]),
        batch=raw["batch"],
        b_batch=raw.get("b_batch"),
        shortened=bool(raw.get("shortened", False)),
        settled=bool(raw.get("settled", True)),
        concurrent=bool(raw.get("concurrent", False)),
        a_used=used["a"],
        b_used=used["b"],
    )
