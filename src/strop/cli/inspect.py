"""`strop inspect`: what a model is, what it costs, and what applies to it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from strop.cli.numbers import duration, quantity
from strop.cli.optimize import pairs_of, shapes_of
from strop.cli.status import status
from strop.inspection import Cost, Inspection, Verdict, inspect
from strop.records import Space

_OPERATORS = 12
_LAYERS = 5


@dataclass(frozen=True)
class Options:
    """The command's options as they were typed."""

    model: str
    shapes: list[str]
    data: str | None
    reader: str | None
    preprocess: str | None
    inputs: list[str]
    quick: bool
    trust: bool


def run(options: Options, *, as_json: bool) -> int:
    """Inspect, print, and return the exit code."""
    with status() as say:
        found = inspect(
            options.model,
            shapes=shapes_of(options.shapes),
            data=options.data,
            reader=options.reader,
            preprocess=options.preprocess,
            renames=pairs_of(options.inputs, "--input", "ids=token_ids"),
            trust=options.trust,
            measure=not options.quick,
            say=say,
        )
    if as_json:
        sys.stdout.write(found.to_json(indent=1) + "\n")
    else:
        _print(found)
    return 0


def _print(found: Inspection) -> None:
    console = Console(highlight=False)
    console.print(
        f"[bold]{escape(found.model)}[/]  {escape(found.format)}, "
        f"producer {escape(found.producer)}, digest {found.model_digest[:12]}"
    )
    for spec in found.signature.inputs:
        console.print(f"  takes  {escape(str(spec))}")
    for spec in found.signature.outputs:
        console.print(f"  gives  {escape(str(spec))}")
    for line in found.changes:
        console.print(f"  changed on import: {escape(line)}", style="dim")
    for line in found.notes:
        console.print(f"! {escape(line)}", style="yellow")
    if found.cost is not None:
        _print_cost(console, found, found.cost)
    _print_verdicts(console, "engine", found.engines)
    _print_verdicts(console, "technique", found.techniques)


def _print_cost(console: Console, found: Inspection, cost: Cost) -> None:
    sizes = ", ".join(f"{name} {'x'.join(map(str, dims))}" for name, dims in found.sizes.items())
    console.print(f"\n[bold]one call[/] at {escape(sizes)}")
    if found.assumed:
        console.print(
            f"  assumed: {escape('; '.join(found.assumed))} (say otherwise with --shape)",
            style="yellow",
        )
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column()
    table.add_row("parameters", quantity(cost.parameters))
    table.add_row("weights", quantity(cost.weights_bytes, "B"))
    table.add_row("operations", quantity(cost.flops, "FLOP"))
    table.add_row("bytes moved", f"{quantity(cost.bytes_moved, 'B')} if nothing is fused")
    table.add_row("at the least", f"{quantity(cost.least_bytes, 'B')} (weights, inputs, outputs)")
    if found.limit is not None:
        limit = found.limit
        table.add_row(
            "roofline here",
            f"{duration(limit.seconds)} at the least, bound by {limit.side}: "
            f"{limit.arithmetic} peak {quantity(limit.peak, 'OP/s')}, "
            f"{quantity(limit.bandwidth, 'B/s')}, {limit.threads} threads, "
            f"{limit.intensity:.3g} operations a byte",
        )
    flags = [
        text
        for text, holds in (
            ("quantised already", cost.quantised),
            ("branches or loops", cost.control_flow),
            (f"{cost.unknown_nodes} nodes not counted: shapes depend on data", cost.unknown_nodes),
        )
        if holds
    ]
    if flags:
        table.add_row("note", "; ".join(flags))
    names = list(cost.operators.items())
    shown = ", ".join(f"{escape(name)} {count}" for name, count in names[:_OPERATORS])
    more = f" and {len(names) - _OPERATORS} more kinds" if len(names) > _OPERATORS else ""
    table.add_row("operators", f"{sum(cost.operators.values())}: {shown}{more}")
    console.print(table)
    if cost.flops and cost.heaviest:
        layers = Table(box=None, pad_edge=False)
        for title, side in (("heaviest nodes", "left"), ("operator", "left"), ("share", "right")):
            layers.add_column(title, justify=side, overflow="ellipsis")  # type: ignore[arg-type]
        for layer in cost.heaviest[:_LAYERS]:
            share = f"{layer.flops / cost.flops:.1%}"
            layers.add_row(escape(layer.name or "–"), escape(layer.operator), share)
        console.print()
        console.print(layers)


def _print_verdicts(console: Console, kind: str, verdicts: Sequence[Verdict]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column(kind, no_wrap=True)
    table.add_column("applies", no_wrap=True)
    table.add_column("with, or why not", overflow="fold")
    for verdict in verdicts:
        needs = f"needs examples ({', '.join(verdict.needs)})" if verdict.needs else ""
        detail = "; ".join(part for part in (needs, _choices(verdict.space)) if part)
        table.add_row(
            verdict.name,
            "[green]yes[/]" if verdict.ok else "[dim]no[/]",
            escape(detail if verdict.ok else verdict.reason),
        )
    console.print()
    console.print(table)


def _choices(space: Space) -> str:
    return "; ".join(
        f"{choice.name}: {', '.join(map(_value, choice.values))}" for choice in space.choices
    )


def _value(value: object) -> str:
    """A value as people write it: 4 rather than 4.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)
