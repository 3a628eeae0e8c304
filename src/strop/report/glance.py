"""Before and after at a glance: original, fastest equivalent and delivered, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from strop.records import Candidate, Evidence, Interval, Latency, Quality, Result
from strop.report import figures
from strop.report.numbers import (
    NONE,
    Score,
    TimeUnit,
    bounds,
    joules,
    ratio,
    ratio_bounds,
    significant,
    size,
    vague,
)


@dataclass(frozen=True)
class Column:
    """One candidate, under all the names that it has."""

    title: str
    recipe: str
    who: str


@dataclass(frozen=True)
class Cell:
    """A figure, its interval in words, and its picture."""

    text: str
    note: str = ""
    picture: Markup | None = None


@dataclass(frozen=True)
class Row:
    name: str
    note: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Glance:
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


def glance(result: Result, score: Score) -> Glance:
    """Columns for the different ones among the three, and a row for all that was measured."""
    columns, candidates = _columns(result)
    whos = [column.who for column in columns]
    evidences = [candidate.evidence for candidate in candidates]
    rows = [
        *_latency_rows(evidences, whos),
        _speed_row(candidates, whos),
        _quality_row(result, score, candidates, whos),
        *_memory_rows(evidences, whos),
        *_energy_rows(evidences, whos),
        *_cost_rows(evidences, whos),
    ]
    return Glance(columns, tuple(row for row in rows if row is not None))


def _columns(result: Result) -> tuple[tuple[Column, ...], list[Candidate]]:
    """One column a recipe; where two of the three are one, it carries both names.

    The later one's evidence is taken: it is the same candidate, measured again.
    """
    names: dict[str, list[str]] = {}
    found: dict[str, Candidate] = {}
    three = (
        ("original", result.original),
        ("fastest equivalent", result.equivalent),
        ("delivered", result.delivered),
    )
    for name, candidate in three:
        names.setdefault(candidate.recipe.id, []).append(name)
        found[candidate.recipe.id] = candidate
    columns = []
    for key, called in names.items():
        title = " and ".join(", ".join(called).rsplit(", ", 1))
        who = next(
            who for who in ("delivered", "fastest equivalent", "original") if who in called
        ).split()[-1]
        columns.append(Column(title[0].upper() + title[1:], found[key].text, who))
    return tuple(columns), list(found.values())


def _latency_rows(evidences: Sequence[Evidence], whos: Sequence[str]) -> list[Row | None]:
    latencies = [evidence.latency[0] if evidence.latency else None for evidence in evidences]
    known = [latency for latency in latencies if latency is not None]
    if not known:
        return []
    unit = TimeUnit.fitting([latency.p50.estimate for latency in known])
    fewest, most = min(one.calls for one in known), max(one.calls for one in known)
    counted = f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
    rows: list[Row | None] = []
    for name, note, field in (
        ("Median call", _called(known), "p50"),
        ("90% of calls within", "", "p90"),
        ("99% of calls within", f"over {counted} calls", "p99"),
    ):
        values: list[Interval | None] = [
            None if latency is None else getattr(latency, field) for latency in latencies
        ]
        rows.append(_intervals(name, note, values, whos, unit))
    rates = [None if latency is None else latency.throughput for latency in latencies]
    counted = "counted while calls ran at once" if _at_once(known) else ""
    rate_row = _plain("Examples a second", counted, rates, whos, lambda rate: significant(rate))
    return [rate_row, *rows] if counted else [*rows, rate_row]


def _called(latencies: Sequence[Latency]) -> str:
    """Batch, threads and calls at once, each told apart where the columns differ."""
    batches = dict.fromkeys(latency.batch for latency in latencies)
    parts = [f"batch {', '.join(map(str, batches))}"]
    for name in ("threads", "streams"):
        values = [getattr(latency, name) for latency in latencies]
        if name == "threads" or _at_once(latencies):
            noun = name if name == "threads" else "at once"
            parts.append(f"{', '.join(map(str, dict.fromkeys(values)))} {noun}")
    return ", ".join(parts)


def _at_once(latencies: Sequence[Latency]) -> bool:
    return any(latency.streams > 1 for latency in latencies)


def _intervals(
    name: str,
    note: str,
    values: Sequence[Interval | None],
    whos: Sequence[str],
    unit: TimeUnit,
) -> Row | None:
    ends = [
        (value.estimate, 0.0 if vague(value) else value.high)
        for value in values
        if value is not None
    ]
    largest = max((end for pair in ends for end in pair if math.isfinite(end)), default=0.0)
    cells = []
    for value, who in zip(values, whos, strict=True):
        if value is None or not math.isfinite(value.estimate):
            cells.append(Cell(NONE))
            continue
        if vague(value):
            picture = figures.bar(value.estimate, largest, who)
            cells.append(Cell(unit(value.estimate), "too few launches for an interval", picture))
            continue
        picture = figures.bar(value.estimate, largest, who, value)
        cells.append(Cell(unit(value.estimate), bounds(value, unit.scale), picture))
    return Row(name, note, tuple(cells))


def _speed_row(candidates: Sequence[Candidate], whos: Sequence[str]) -> Row | None:
    """Times as fast as the original, where the two were timed in pairs."""
    found: list[Interval | None] = []
    for candidate in candidates:
        speedups = candidate.evidence.speedups
        found.append(next((one.ratio for one in speedups if one.against == "original"), None))
    if not any(found):
        return None
    largest = max(one.high if math.isfinite(one.high) else one.estimate for one in found if one)
    cells = []
    for one, who in zip(found, whos, strict=True):
        if one is not None and math.isfinite(one.estimate):
            picture = figures.bar(one.estimate, largest, who, one)
            cells.append(Cell(ratio(one.estimate), ratio_bounds(one), picture))
        elif who == "original":
            cells.append(Cell("1×", "", figures.bar(1.0, largest, who)))
        else:
            cells.append(Cell(NONE))
    return Row("Times as fast", "in paired launches", tuple(cells))


def _quality_row(
    result: Result, score: Score, candidates: Sequence[Candidate], whos: Sequence[str]
) -> Row | None:
    """Scores on *prove* where they may be told, on *search* else; never the two in one row."""
    proven = result.delivered.evidence.prove_quality
    found: list[Quality | None] = [
        candidate.evidence.prove_quality if proven else candidate.evidence.search_quality
        for candidate in candidates
    ]
    beside = proven or next((quality for quality in found if quality is not None), None)
    if beside is None:
        return None
    drops = [one.drop for one in found if one is not None]
    ends = [end for drop in drops for end in (drop.estimate, drop.low, drop.high)]
    ends.append(1.3 * result.tolerance)
    reach = max((abs(end) for end in ends if math.isfinite(end)), default=1.0)
    cells = []
    for quality, who in zip(found, whos, strict=True):
        if quality is None and who != "original":
            cells.append(Cell(NONE))
        elif quality is None or who == "original":
            picture = figures.drop_mark(None, reach, result.tolerance, who)
            cells.append(Cell(score.value(beside.reference), "", picture))
        else:
            picture = figures.drop_mark(quality.drop, reach, result.tolerance, who)
            cells.append(Cell(score.value(quality.candidate), _lost(quality, score), picture))
    where = "kept aside" if proven else "of the search"
    name = score.metric or "quality"
    if ":" not in name:  # score.py:iou is a file's name, and stays as it is
        name = name[0].upper() + name[1:]
    return Row(name, f"on {beside.n:,} examples {where}", tuple(cells))


def _lost(quality: Quality, score: Score) -> str:
    if quality.drop.estimate == 0 and quality.lost == quality.won == 0:
        return "nothing lost"
    ends = score.drop_bounds(quality.drop)
    return f"lost {ends}" if ends else f"lost {score.drop(quality.drop.estimate)}"


def _memory_rows(evidences: Sequence[Evidence], whos: Sequence[str]) -> list[Row | None]:
    rows = []
    for name, note, field in (
        ("Peak memory", "engine included", "peak"),
        ("Weights", "", "weights"),
        ("File", "", "file"),
    ):
        values = [
            None if evidence.memory is None else getattr(evidence.memory, field)
            for evidence in evidences
        ]
        rows.append(_plain(name, note, values, whos, size))
    return rows


def _energy_rows(evidences: Sequence[Evidence], whos: Sequence[str]) -> list[Row | None]:
    """A row for each way in which energy was found: figures of two ways share no scale."""
    known = [evidence.energy for evidence in evidences if evidence.energy is not None]
    rows: list[Row | None] = []
    for kind, source in dict.fromkeys((found.kind, found.source) for found in known):
        values = [
            found.joules
            if found is not None and (found.kind, found.source) == (kind, source)
            else None
            for found in (evidence.energy for evidence in evidences)
        ]
        ends = [
            end
            for value in values
            if value is not None
            for end in (value.estimate, value.high)
            if math.isfinite(end)
        ]
        cells = []
        for value, who in zip(values, whos, strict=True):
            if value is None:
                cells.append(Cell(NONE))
                continue
            picture = figures.bar(value.estimate, max(ends), who, value)
            between = ""
            if math.isfinite(value.high):
                between = f"{joules(value.low)} to {joules(value.high)}"
            cells.append(Cell(joules(value.estimate), between, picture))
        rows.append(Row("Energy an inference", kind, tuple(cells)))
    return rows


def _cost_rows(evidences: Sequence[Evidence], whos: Sequence[str]) -> list[Row | None]:
    costs = [evidence.cost for evidence in evidences]
    known = [cost for cost in costs if cost is not None]
    if not known:
        return []
    price = known[0].price
    full = [None if cost is None else cost.per_million for cost in costs]
    rows = [_plain("Cost a million", f"at {price}, full use", full, whos, price.amount)]
    if (rate := known[0].rate) is not None:
        at_rate = [None if cost is None else cost.per_million_at_rate for cost in costs]
        row = _plain(
            f"Cost a million at {significant(rate)}/s",
            "whole machines",
            at_rate,
            whos,
            price.amount,
        )
        if row is not None:
            cells = (
                cell if cost is None else replace(cell, note=_machines(cost.machines))
                for cell, cost in zip(row.cells, costs, strict=True)
            )
            rows.append(replace(row, cells=tuple(cells)))
    return rows


def _machines(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count:,} machine{'s' if count != 1 else ''}"


def _plain(
    name: str,
    note: str,
    values: Sequence[float | None],
    whos: Sequence[str],
    text: Callable[[float], str],
) -> Row | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    cells = tuple(
        Cell(NONE)
        if value is None or not math.isfinite(value)
        else Cell(text(value), "", figures.bar(value, max(known), who))
        for value, who in zip(values, whos, strict=True)
    )
    return Row(name, note, cells)
