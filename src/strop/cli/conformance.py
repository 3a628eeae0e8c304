"""`strop conformance`: every engine on every model, parity or the reason."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from strop import engines
from strop.cli.status import status
from strop.testing.matrix import Cell, Matrix, matrix

_SHOWN = {
    "parity": "parity",
    "runs": "runs",
    "differs": "DIFFERS",
    "refused": "refused",
    "failed": "FAILED",
    "absent": "absent",
}


@dataclass(frozen=True)
class Options:
    """The command's options as they were typed."""

    models: list[str]
    engines: list[str] | None
    examples: int
    timeout: float
    trust: bool


def run(options: Options, *, as_json: bool, markdown: bool) -> int:
    """Run all pairs, print the matrix, and return the exit code: 1 where one differs or failed."""
    with status() as say:
        found = matrix(
            options.models,
            engines=options.engines,
            examples=options.examples,
            timeout=options.timeout,
            trust=options.trust,
            say=say,
        )
    if as_json:
        sys.stdout.write(found.to_json(indent=1) + "\n")
    elif markdown:
        sys.stdout.write(page(found))
    else:
        _print(found)
    return 0 if found.holds else 1


def page(found: Matrix) -> str:
    """The matrix as a page of Markdown: the table, the reasons below it, and how it was made."""
    titles = [f"`{name}`" for name in found.engines]
    lines = [
        "# Every engine on every model",
        "",
        "Written by `strop conformance MODELS… --markdown`, not by hand.",
        "",
        f"| model | {' | '.join(titles)} |",
        f"| --- {'| --- ' * len(titles)}|",
    ]
    for row in found.rows:
        cells = [_brief(cell) for cell in row.cells] or ["–"] * len(titles)
        lines.append(f"| {_plain(row.model)} | {' | '.join(cells)} |")
    lines += [
        "",
        f"*parity*: every row of every output lies within a relative error of {found.bound:g} of "
        "the model’s own runtime; the figure is the largest error. *runs*: the model gives "
        "all inputs the same answers, so that there is nothing to compare. *refused*: the engine "
        "says that it cannot, and why. *absent*: not installed here. *DIFFERS* and *FAILED* are "
        "faults.",
        "",
        "## Reasons",
        "",
    ]
    lines += [f"- {_plain(text)}" for text in _reasons(found)] or ["None: all run everywhere."]
    if others := [name for name in engines.names() if name not in found.engines]:
        lines += ["", f"Registered, and not asked for here: {', '.join(others)}."]
    lines += [
        "",
        "## How",
        "",
        f"Each pair in a process of its own, the engine’s default options, one thread, calls of "
        f"{found.examples} examples unless the batch is fixed, on {found.machine.cpu} "
        f"({', '.join(found.machine.isa) or 'no instruction set that matters'}).",
        "",
        "| model | compared with | inputs |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| {_plain(row.model)} | {row.reference or '–'} | {row.examples or '–'} |"
        for row in found.rows
    ]
    versions = ", ".join(f"{name} {version}" for name, version in found.machine.packages.items())
    return "\n".join([*lines, "", f"Packages: {versions}.", ""])


def _print(found: Matrix) -> None:
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("model", overflow="fold")
    for name in found.engines:
        table.add_column(name, no_wrap=True)
    for row in found.rows:
        cells = [_coloured(cell) for cell in row.cells] or ["–"] * len(found.engines)
        table.add_row(escape(row.model), *cells)
    console.print(table)
    console.print()
    for text in _reasons(found):
        console.print(escape(text), style="dim")
    if found.holds:
        console.print("every pair gives the model’s own answers, or says why it does not run")


def _coloured(cell: Cell) -> str:
    colour = {"parity": "green", "differs": "red", "failed": "red"}.get(cell.outcome, "dim")
    return f"[{colour}]{_brief(cell)}[/]"


def _brief(cell: Cell) -> str:
    if cell.outcome in ("parity", "differs") and cell.error is not None:
        return f"{_SHOWN[cell.outcome]} {cell.error:.0e}" if cell.error else "parity, exact"
    return _SHOWN[cell.outcome]


def _reasons(found: Matrix) -> list[str]:
    """What is not parity, engine by engine; one line for all models with one reason."""
    told = [f"{row.model} cannot be read: {row.reason}" for row in found.rows if row.reason]
    for engine in found.engines:
        reasons: dict[tuple[str, str], list[str]] = {}
        for row in found.rows:
            for cell in row.cells:
                if cell.engine == engine and cell.outcome != "parity":
                    reasons.setdefault((cell.outcome, cell.reason), []).append(row.model)
        for (outcome, reason), models in reasons.items():
            all_of_them = len(models) == sum(bool(row.cells) for row in found.rows)
            where = "all models" if all_of_them and len(models) > 1 else ", ".join(models)
            told.append(f"{engine}, {_SHOWN[outcome]} ({where}): {reason}")
    return told


def _plain(text: str) -> str:
    """Text that no Markdown is read into."""
    for mark in ("\\", "|", "*", "_", "`", "<", "["):
        text = text.replace(mark, f"\\{mark}")
    return text
