"""`strop bench`: its options as they are typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from strop.cli.commands.options import (
    InputOption,
    JsonOption,
    PreprocessOption,
    PriceOption,
    ReaderOption,
    ThreadsOption,
    TrustOption,
    WattsOption,
)


def bench(
    bundle: Annotated[
        Path, typer.Argument(help="The folder of a bundle, or what strop optimize wrote.")
    ],
    data: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--data", help="Examples to query with [the bundle's own samples]"),
    ] = None,
    scenario: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--scenario",
            help="SingleStream, MultiStream, Server or Offline; may be repeated [all four]",
        ),
    ] = None,
    slo: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--slo", help="Longest latency at the scenario's percentile: 20ms."),
    ] = None,
    rate: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--rate", help="Queries a second of the server [the highest valid one]"),
    ] = None,
    min_duration: Annotated[
        str, typer.Option("--min-duration", help="Shortest run; MLPerf asks for 10m.")
    ] = "60s",
    batch: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--batch", help="Most examples in one call [32, or what the model fixes]"),
    ] = None,
    threads: ThreadsOption = None,
    price: PriceOption = None,
    watts_per_core: WattsOption = None,
    logs: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--logs", help="A folder to keep LoadGen's own logs in."),
    ] = None,
    reader: ReaderOption = None,
    preprocess: PreprocessOption = None,
    inputs: InputOption = None,
    trust: TrustOption = False,
    json_: JsonOption = False,
) -> None:
    """Run MLPerf LoadGen's scenarios on a bundle, judged by LoadGen's own rules.

    Exit code 0: every result is valid and keeps the SLO; 3: one does not.
    """
    from strop.cli import bench as command

    options = command.Options(
        bundle=bundle,
        data=data,
        scenarios=scenario,
        slo=slo,
        rate=rate,
        min_duration=min_duration,
        batch=batch,
        threads=threads,
        price=price,
        watts_per_core=watts_per_core,
        logs=logs,
        reader=reader,
        preprocess=preprocess,
        inputs=inputs or [],
        trust=trust,
    )
    raise typer.Exit(command.run(options, as_json=json_))
