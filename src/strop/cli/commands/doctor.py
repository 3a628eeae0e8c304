"""`strop doctor`: its options as they are typed."""

from __future__ import annotations

from typing import Annotated

import typer

from strop.cli.commands.options import JsonOption


def doctor(
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the measurements.")] = False,
    json_: JsonOption = False,
) -> None:
    """Show what this machine and this installation can do, and what stands in their way."""
    from strop.cli import doctor as command

    raise typer.Exit(command.run(quick=quick, as_json=json_))
