"""`strop demo`: its options as they are typed."""

from __future__ import annotations

from pathlib import Path

import typer

from strop.cli.commands.options import BudgetOption, JsonOption, OutputOption


def demo(
    output: OutputOption = Path("demo-out"),
    budget: BudgetOption = "2m",
    json_: JsonOption = False,
) -> None:
    """Optimise the network and the images that come with strop (Fashion-MNIST)."""
    from strop.cli import demo as command

    raise typer.Exit(command.run(output, budget, as_json=json_))
