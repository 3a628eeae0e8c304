"""`strop inspect`: its options as they are typed."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from strop.cli.commands.options import (
    InputOption,
    JsonOption,
    Model,
    PreprocessOption,
    ReaderOption,
    ShapeOption,
    TrustOption,
)


def inspect(
    model: Model,
    shape: ShapeOption = None,
    data: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--data", help="Examples that give the sizes: a module is traced with them."),
    ] = None,
    reader: ReaderOption = None,
    preprocess: PreprocessOption = None,
    inputs: InputOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure nothing: no roofline bound.")
    ] = False,
    trust: TrustOption = False,
    json_: JsonOption = False,
) -> None:
    """Show what a model is, what a call costs, how fast it could be here, and what applies."""
    from strop.cli import inspect as command

    options = command.Options(
        model=model,
        shapes=shape or [],
        data=data,
        reader=reader,
        preprocess=preprocess,
        inputs=inputs or [],
        quick=quick,
        trust=trust,
    )
    raise typer.Exit(command.run(options, as_json=json_))
