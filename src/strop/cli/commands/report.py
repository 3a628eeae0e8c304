"""`strop report`: its options as they are typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from strop.cli.commands.options import JsonOption


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="What strop optimize wrote (--output).")
    ],
    steps: Annotated[
        bool, typer.Option("--steps", help="Print which step brought what, too.")
    ] = False,
    engines: Annotated[
        bool, typer.Option("--engines", help="Print how each engine did, and why one was chosen.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Write the HTML report of a search again, and print its path."""
    from strop.cli import report as command

    raise typer.Exit(command.run(folder, steps=steps, engines=engines, as_json=json_))
