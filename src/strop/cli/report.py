"""`strop report`: the HTML report of a search, written again, and its tables in the terminal."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from strop.errors import InputError
from strop.profiling import write_report
from strop.records import Interval
from strop.report import breakdown
from strop.report.numbers import NONE, ratio, ratio_bounds, size
from strop.report.record import Breakdown, EngineRow, Ladder


def run(folder: Path, *, steps: bool, engines: bool, as_json: bool) -> int:
    """Write the report, print what was asked for and its path."""
    if not folder.is_dir():
        raise InputError(
            f"there is no folder '{folder}'", hint="name what strop optimize wrote (--output)"
        )
    if not (folder / "result.json").is_file():
        raise InputError(
            f"the folder '{folder}' holds no result.json",
            hint="name what strop optimize wrote (--output), once it has finished",
        )
    path = write_report(folder)
    if as_json:
        sys.stdout.write(breakdown.read(folder, path).to_json(indent=1) + "\n")
        return 0
    if steps or engines:
        found = breakdown.read(folder, path)
        console = Console(highlight=False)
        if steps:
            _print_steps(console, found.steps)
        if engines:
            _print_engines(console, found)
    sys.stdout.write(f"{path}\n")
    return 0


def _print_steps(console: Console, found: Ladder | None) -> None:
    if found is None:
        console.print("what was delivered is the original, unchanged: there are no steps\n")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("step", overflow="fold")
    for title in ("times as fast", "this step", "lost", "file"):
        table.add_column(title, justify="right", no_wrap=True)
    for rung in found.rungs:
        table.add_row(
            escape(rung.name),
            _times(rung.speed),
            NONE if rung.gain is None else ratio(rung.gain.estimate),
            NONE if rung.drop is None else f"{rung.drop.estimate:.4f}",
            size(rung.file),
        )
        notes = [rung.reason, f"with {', '.join(rung.together)}" if rung.together else ""]
        if rung.train_seconds is not None:
            notes.append(f"trained for {rung.train_seconds:.0f} s")
        if any(notes):
            table.add_row(f"[dim]  {escape('; '.join(filter(None, notes)))}[/]")
    console.print(table)
    console.print(f"[dim]times as fast as {escape(found.against)}, as the search saw it[/]\n")


def _print_engines(console: Console, found: Breakdown) -> None:
    for sentence in found.why:
        console.print(escape(sentence))
    table = Table(box=None, pad_edge=False)
    table.add_column("engine", no_wrap=True)
    for title in ("times as fast", "same outputs", "lost", "file"):
        table.add_column(title, justify="right", no_wrap=True)
    # What is long stands in a table of its own: beside the figures, 80 columns leave it no room.
    recipes = Table(box=None, pad_edge=False)
    recipes.add_column("engine", no_wrap=True)
    recipes.add_column("its best recipe, or why it has none", overflow="fold")
    for row in found.engines:
        name = escape(row.engine)
        name = f"[bold]{name}[/]" if row.status == "delivered" else name
        recipes.add_row(name, _told(row))
        if row.speed is None and row.file is None:
            continue
        table.add_row(
            name,
            _times(row.speed),
            NONE if row.plain is None else ratio(row.plain.estimate),
            NONE if row.drop is None else f"{row.drop.estimate:.4f}",
            size(row.file),
        )
    console.print(table)
    console.print(f"[dim]times as fast as {escape(found.against)}, as the search saw it[/]")
    console.print(recipes)
    console.print()


def _told(row: EngineRow) -> str:
    told = [escape(row.recipe), f"[dim]{escape(row.reason)}[/]" if row.reason else ""]
    return "\n".join(filter(None, told))


def _times(interval: Interval | None) -> str:
    if interval is None:
        return NONE
    ends = ratio_bounds(interval)
    return f"{ratio(interval.estimate)} ({ends})" if ends else ratio(interval.estimate)
