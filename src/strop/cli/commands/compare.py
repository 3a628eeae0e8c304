"""`strop compare`: its options as they are typed."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from strop.cli.commands.options import (
    BatchOption,
    ConfidenceOption,
    DataOption,
    InputOption,
    JsonOption,
    LaunchesOption,
    MetricOption,
    PreprocessOption,
    ReaderOption,
    ThreadsOption,
    TrustOption,
)


def compare(
    a: Annotated[str, typer.Argument(help="A model or a bundle: the reference.")],
    b: Annotated[str, typer.Argument(help="The one to hold against it.")],
    data: DataOption,
    metric: MetricOption = None,
    batch: BatchOption = 1,
    threads: ThreadsOption = None,
    launches: LaunchesOption = 5,
    confidence: ConfidenceOption = "95%",
    budget: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--budget", help="Wall time: fewer examples and launches where it is short."),
    ] = None,
    reader: ReaderOption = None,
    preprocess: PreprocessOption = None,
    inputs: InputOption = None,
    trust: TrustOption = False,
    json_: JsonOption = False,
) -> None:
    """Score and time two models or bundles on the same examples: a description, not a claim."""
    from strop.cli import compare as command

    options = command.Options(
        a=a,
        b=b,
        data=data,
        metric=metric,
        batch=batch,
        threads=threads,
        launches=launches,
        confidence=confidence,
        budget=budget,
        reader=reader,
        preprocess=preprocess,
        inputs=inputs or [],
        trust=trust,
    )
    raise typer.Exit(command.run(options, as_json=json_))
