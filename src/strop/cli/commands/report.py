"""`strop report`: its options as they are typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="What strop optimize wrote (--output).")
    ],
) -> None:
    """Write the HTML report of a search again, and print its path."""
    from strop.cli import report as command

    raise typer.Exit(command.run(folder))
