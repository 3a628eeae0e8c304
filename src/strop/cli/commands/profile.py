"""`strop profile`: its options as they are typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from strop.cli.commands.options import (
    BatchOption,
    DataOption,
    InputOption,
    JsonOption,
    PreprocessOption,
    ReaderOption,
    ThreadsOption,
    TrustOption,
)


def profile(
    model: Annotated[str, typer.Argument(help="A model, a bundle, or what strop optimize wrote.")],
    data: DataOption,
    against: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--against", help="A quantised model's float original: what it slowed."),
    ] = None,
    engine: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--engine", help="Profile a model on these engines only; may be repeated."),
    ] = None,
    batch: BatchOption = 1,
    threads: ThreadsOption = None,
    runs: Annotated[int, typer.Option("--runs", help="Calls that count.")] = 100,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="The HTML page [profile.html]"),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not measure the machine's peaks: no roofline.")
    ] = False,
    reader: ReaderOption = None,
    preprocess: PreprocessOption = None,
    inputs: InputOption = None,
    trust: TrustOption = False,
    json_: JsonOption = False,
) -> None:
    """Show where the time of a call goes, operator by operator, on each engine."""
    from strop.cli import profile as command

    options = command.Options(
        model=model,
        data=data,
        against=against,
        engines=engine,
        batch=batch,
        threads=threads,
        runs=runs,
        output=output,
        quick=quick,
        reader=reader,
        preprocess=preprocess,
        inputs=inputs or [],
        trust=trust,
    )
    raise typer.Exit(command.run(options, as_json=json_))
