"""`strop bench`: a bundle under MLPerf LoadGen's scenarios."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from strop.benching import SCENARIOS, Bench, Histogram, ScenarioResult, bench
from strop.cli.folders import bundle_in
from strop.cli.numbers import duration
from strop.cli.optimize import pairs_of
from strop.cli.spending import how_cost, how_energy, joules, million
from strop.cli.status import status
from strop.errors import InputError
from strop.search import parse_price, parse_seconds, parse_watts

_BARS = " ▁▂▃▄▅▆▇█"
_COLUMNS = 30


@dataclass(frozen=True)
class Options:
    """The command's options as they were typed."""

    bundle: Path
    data: str | None
    scenarios: list[str] | None
    slo: str | None
    rate: float | None
    min_duration: str
    batch: int | None
    threads: int | None
    price: str | None
    watts_per_core: str | None
    logs: Path | None
    reader: str | None
    preprocess: str | None
    inputs: list[str]
    trust: bool


def run(options: Options, *, as_json: bool) -> int:
    """Bench, print, and return the exit code: 0 all valid and within the SLO, 3 not."""
    names = {name.lower(): name for name in SCENARIOS}
    chosen = []
    for text in options.scenarios or list(SCENARIOS):
        name = names.get(text.lower().replace("-", "").replace("_", ""))
        if name is None:
            raise InputError(
                f"there is no scenario '{text}'", hint=f"known: {', '.join(SCENARIOS)}"
            )
        chosen.append(name)
    with status() as say:
        found = bench(
            bundle_in(options.bundle),
            options.data,
            scenarios=chosen,
            slo=None if options.slo is None else parse_seconds(options.slo),
            rate=options.rate,
            min_duration=parse_seconds(options.min_duration),
            batch=options.batch,
            threads=options.threads,
            price=None if options.price is None else parse_price(options.price),
            watts_per_core=(
                None if options.watts_per_core is None else parse_watts(options.watts_per_core)
            ),
            logs=options.logs,
            reader=options.reader,
            preprocess=options.preprocess,
            renames=pairs_of(options.inputs, "--input", "ids=token_ids"),
            trust=options.trust,
            say=say,
        )
    if as_json:
        sys.stdout.write(found.to_json(indent=1) + "\n")
    else:
        _print(found)
    good = all(one.valid and one.slo_kept is not False for one in found.scenarios)
    return 0 if good else 3


def _print(found: Bench) -> None:
    console = Console(highlight=False)
    streams = f", {_plural(found.streams, 'stream')}" if found.streams > 1 else ""
    console.print(
        f"[bold]{escape(found.bundle)}[/]  {escape(found.recipe)}, "
        f"{_plural(found.threads, 'thread')}"
        f"{streams}, calls of up to {found.batch}, {found.samples:,} samples, "
        f"LoadGen {found.loadgen}"
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("scenario", no_wrap=True)
    table.add_column("result", no_wrap=True)
    table.add_column("reports", no_wrap=True)
    for title in ("p50", "p90", "p99", "p99.9", "queries"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("latencies", no_wrap=True)
    for one in found.scenarios:
        table.add_row(
            one.scenario,
            "[green]VALID[/]" if one.valid else "[red]INVALID[/]",
            _value(one),
            *(duration(one.percentiles[name]) for name in ("50", "90", "99", "99.9")),
            f"{one.queries:,}",
            _sketch(one.histogram),
        )
    console.print(table)
    console.print()
    for one in found.scenarios:
        for line in _lines(one):
            console.print(f"  {one.scenario}: {escape(line)}")
    hows = [how_energy(one.energy) for one in found.scenarios if one.energy is not None]
    for line in dict.fromkeys(hows):
        console.print(f"  {escape(line)}; of whole runs, LoadGen's own work included")
    for note in found.notes:
        console.print(f"! {escape(note)}", style="yellow")


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' if number != 1 else ''}"


def _value(one: ScenarioResult) -> str:
    if one.value is None:
        return "no estimate"
    if one.scenario == "SingleStream":
        return f"p90 {duration(one.value)}"
    if one.scenario == "MultiStream":
        return f"p99 {duration(one.value)}"
    return f"{one.value:,.1f} samples/s"


def _lines(one: ScenarioResult) -> list[str]:
    lines = []
    if one.rate is not None:
        tried = f" (highest of {len(one.attempts)} short tries)" if one.attempts else ""
        lines.append(f"{one.rate:,.1f} queries/s offered{tried}")
    if one.slo_seconds is not None:
        kept = "kept" if one.slo_kept else "not kept"
        lines.append(f"the SLO of {duration(one.slo_seconds)} is {kept}")
    if one.early_stopping:
        lines.append(f"early stopping: {one.early_stopping}")
    if one.energy is not None:
        lines.append(f"energy an inference {joules(one.energy)}")
    if one.cost is not None:
        lines.append(f"cost a million {million(one.cost)}; {how_cost(one.cost)}")
    if not one.valid:
        checks = one.checks.model_dump()
        failed = ", ".join(name.replace("_", " ") for name, ok in checks.items() if ok is False)
        lines.append(f"invalid ({failed or 'errors'}): {one.why}")
    return lines


def _sketch(histogram: Histogram | None) -> str:
    """The histogram in one line, from the shortest latency to the longest, by the logarithm."""
    if histogram is None:
        return ""
    counts = _merged(histogram.counts)
    top = max(counts)
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // top)] for count in counts)


def _merged(counts: Sequence[int]) -> list[int]:
    width = -(-len(counts) // _COLUMNS)
    return [sum(counts[begin : begin + width]) for begin in range(0, len(counts), width)]
