"""`strop compare`: two models or bundles on the same examples."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from strop.cli.folders import bundle_in
from strop.cli.numbers import duration, points, ratio
from strop.cli.optimize import confidence_of, pairs_of
from strop.cli.status import status
from strop.comparison import Comparison, compare


@dataclass(frozen=True)
class Options:
    """The command's options as they were typed."""

    a: str
    b: str
    data: str
    metric: str | None
    batch: int
    threads: int | None
    launches: int
    confidence: str
    budget: str | None
    reader: str | None
    preprocess: str | None
    inputs: list[str]
    trust: bool


def run(options: Options, *, as_json: bool) -> int:
    """Compare, print, and return the exit code."""
    with status() as say:
        found = compare(
            str(bundle_in(Path(options.a))),
            str(bundle_in(Path(options.b))),
            options.data,
            metric=options.metric,
            batch=options.batch,
            threads=options.threads,
            launches=options.launches,
            confidence=confidence_of(options.confidence),
            budget=options.budget,
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
    return 0


def _print(found: Comparison) -> None:
    console = Console(highlight=False)
    console.print(_table(found))
    console.print()
    for line in _sentences(found):
        console.print(f"  {escape(line)}")
    for note in found.notes:
        console.print(f"! {escape(note)}", style="yellow")
    examples = "1 example" if found.examples == 1 else f"{found.examples:,} examples"
    console.print(
        f"\nA description of {examples} ({found.groups:,} independent), no claim: "
        "whether they were used to make either model is not known here.",
        style="dim",
    )


def _table(found: Comparison) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("A", justify="right", overflow="fold")
    table.add_column("B", justify="right", overflow="fold")
    sides = (found.a, found.b)
    table.add_row("given", *(escape(side.given) for side in sides))
    table.add_row("runs as", *(escape(side.recipe) for side in sides))
    table.add_row(escape(found.metric), *(f"{side.score:.2%}" for side in sides))
    if found.a_latency is not None and found.b_latency is not None:
        latencies = (found.a_latency, found.b_latency)
        threads = " ".join(dict.fromkeys(str(latency.threads) for latency in latencies))
        table.add_row(
            f"median, batch {found.batch}, threads {threads}",
            *(duration(latency.p50.estimate) for latency in latencies),
        )
        table.add_row("p99", *(duration(latency.p99.estimate) for latency in latencies))
    return table


def _sentences(found: Comparison) -> list[str]:
    difference = found.difference
    lines = []
    ends = ""
    if not math.isnan(difference.low):
        ends = (
            f" ({difference.confidence:.0%} interval {points(difference.low)} to "
            f"{points(difference.high)})"
        )
    lines.append(f"{found.metric}: B scores {points(difference.estimate)} points beside A{ends}")
    if found.may_lose is not None:
        lines.append(
            f"on examples like these B loses at most {points(found.may_lose).lstrip('+')} points "
            f"at {found.confidence:.0%} confidence, one-sided ({found.method})"
        )
        lines.append(
            f"A scores higher on {found.lost:,}, B on {found.won:,}; "
            f"{found.changed:,} decisions differ"
        )
    else:
        lines.append(f"{found.changed:,} decisions differ; a set-level metric has no exact bound")
    lines.append(f"largest relative error of an output: {found.max_relative_error:.2g}")
    if found.speedup is not None:
        lines.append(
            f"speed: B is {ratio(found.speedup.ratio)} as fast as A "
            f"({found.speedup.launches} paired launches)"
        )
    return lines
