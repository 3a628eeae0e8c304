"""`strop profile`: where the time of a call goes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from strop.cli.numbers import duration, quantity
from strop.cli.optimize import pairs_of
from strop.cli.status import status
from strop.profiling import (
    EngineProfile,
    Profile,
    Quantisation,
    keep,
    output_folder,
    profile,
    write_page,
    write_report,
)

_ROWS = 12


@dataclass(frozen=True)
class Options:
    """The command's options as they were typed."""

    model: str
    data: str
    against: str | None
    engines: list[str] | None
    batch: int
    threads: int | None
    runs: int
    output: Path | None
    quick: bool
    reader: str | None
    preprocess: str | None
    inputs: list[str]
    trust: bool


def run(options: Options, *, as_json: bool) -> int:
    """Profile, write the page, print, and return the exit code.

    The profile of an output folder's bundle is kept there, and shown in the folder's report.
    """
    folder = output_folder(options.model)
    place = Path("profile.html") if folder is None else folder.path / "profile.html"
    place = options.output or place
    with status() as say:
        found = profile(
            options.model if folder is None else str(folder.bundle),
            options.data,
            against=options.against,
            engines=options.engines,
            batch=options.batch,
            threads=options.threads,
            runs=options.runs,
            measure=not options.quick,
            reader=options.reader,
            preprocess=options.preprocess,
            renames=pairs_of(options.inputs, "--input", "ids=token_ids"),
            trust=options.trust,
            say=say,
        )
    page = write_page(found, place)
    if folder is not None:
        keep(found, folder.path)
        write_report(folder.path)
    if as_json:
        sys.stdout.write(found.to_json(indent=1) + "\n")
    else:
        _print(found, page)
    return 0


def _print(found: Profile, page: Path) -> None:
    console = Console(highlight=False)
    for one in found.engines:
        _print_engine(console, one, found.batch)
    if found.quantisation is not None:
        _print_quantisation(console, found.quantisation)
    for name, reason in found.skipped.items():
        console.print(f"not on {escape(name)}: {escape(reason)}", style="dim")
    for note in found.notes:
        console.print(f"! {escape(note)}", style="yellow")
    if found.peaks is not None:
        console.print(
            f"peaks here with {found.peaks.threads} thread"
            f"{'s' if found.peaks.threads != 1 else ''}: fp32 "
            f"{quantity(found.peaks.fp32, 'FLOP/s')}, int8 {quantity(found.peaks.int8, 'OP/s')}, "
            f"memory {quantity(found.peaks.bandwidth, 'B/s')}",
            style="dim",
        )
    if found.advice:
        console.print("\n[bold]advice[/]")
        for advice in found.advice:
            console.print(f"  {escape(advice.engine)}: {escape(advice.text)}")
    console.print(f"\n{escape(str(page))}")


def _print_engine(console: Console, one: EngineProfile, batch: int) -> None:
    profiled = f"{duration(one.profiled_seconds)} under the profiler, " if not one.reason else ""
    console.print(
        f"[bold]{escape(one.recipe)}[/]  {duration(one.call_seconds)} a call of {batch}, "
        f"{profiled}{quantity(one.peak_memory, 'B')} resident at most"
    )
    if one.reason:
        console.print(f"no times of operators: {escape(one.reason)}\n")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("operator", no_wrap=True)
    # The one column that gives way on a narrow screen: rich shrinks those that may wrap first.
    table.add_column("name", overflow="ellipsis", min_width=6, max_width=34)
    table.add_column("in", no_wrap=True)
    for title in ("time", "share", "FLOP", "bytes", "roofline"):
        table.add_column(title, justify="right", no_wrap=True)
    ordered = sorted(one.operators, key=lambda operator: -operator.seconds)
    for operator in ordered[:_ROWS]:
        roofline = "" if operator.roofline is None else f"{operator.roofline:.0%} {operator.side}"
        table.add_row(
            escape(operator.operator),
            escape(operator.name),
            operator.precision,
            duration(operator.seconds),
            f"{operator.share:.1%}",
            "" if operator.flops is None else quantity(operator.flops),
            "" if operator.bytes_moved is None else quantity(operator.bytes_moved, "B"),
            roofline,
        )
    if rest := ordered[_ROWS:]:
        seconds = sum(operator.seconds for operator in rest)
        share = sum(operator.share for operator in rest)
        table.add_row(f"{len(rest)} more", "", "", duration(seconds), f"{share:.1%}", "", "", "")
    if one.outside_seconds > 0:
        share = one.outside_seconds / one.profiled_seconds
        table.add_row("outside", "", "", duration(one.outside_seconds), f"{share:.1%}", "", "", "")
    console.print(table)
    console.print()


def _print_quantisation(console: Console, found: Quantisation) -> None:
    console.print(
        f"[bold]beside its original[/], {escape(found.float_profile.recipe)}, "
        f"{duration(found.float_profile.call_seconds)} a call: what only the quantised graph has "
        f"costs {duration(found.added_seconds)}"
    )
    if not found.slowed:
        console.print("  no operator became slower by a tenth or more\n")
        return
    table = Table(box=None, pad_edge=False)
    for title, side in (
        ("slower now", "left"),
        ("as", "left"),
        ("float", "right"),
        ("quantised", "right"),
    ):
        table.add_column(title, justify=side, overflow="fold")  # type: ignore[arg-type]
    for one in found.slowed[:_ROWS]:
        table.add_row(
            escape(", ".join(one.nodes[:4])),
            escape(", ".join(one.operators)),
            duration(one.float_seconds),
            duration(one.quantised_seconds),
        )
    console.print(table)
    console.print()
