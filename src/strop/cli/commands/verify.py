"""`strop verify`: its options as they are typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from strop.cli.commands.options import JsonOption, LaunchesOption, TrustOption


def verify(
    bundle: Annotated[
        Path, typer.Argument(help="The folder of a bundle, or what strop optimize wrote.")
    ],
    data: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--data", help="The examples of the claim: it is tested again on them."),
    ] = None,
    original: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--original", help="The model that was given: the speed-up is timed again."),
    ] = None,
    launches: LaunchesOption = 5,
    trust: TrustOption = False,
    json_: JsonOption = False,
) -> None:
    """Check a bundle's digests, outputs, speed and claim on this machine.

    Exit code 0: every check holds; 3: some could not be made, none failed; 1: one failed.
    """
    from strop.cli import verify as command

    code = command.run(bundle, data, original, launches=launches, trust=trust, as_json=json_)
    raise typer.Exit(code)
