"""`strop load-test`: its options as they are typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from strop.cli.commands.options import JsonOption, ShapeOption


def load_test(
    url: Annotated[
        str, typer.Argument(help="http://HOST:PORT, or http://HOST:PORT/v2/models/NAME")
    ],
    model: Annotated[str, typer.Option("--model", help="(the only one that is ready)")] = "",
    scenario: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--scenario",
            help="server, single-stream, multi-stream, offline or closed (by what else is given)",
        ),
    ] = None,
    rate: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--rate", help="Queries a second (the highest that holds the SLO)"),
    ] = None,
    arrivals: Annotated[str, typer.Option("--arrivals", help="poisson or constant.")] = "poisson",
    concurrency: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--concurrency", help="Queries in flight, closed loop and offline."),
    ] = None,
    duration: Annotated[str, typer.Option("--duration", help="Of one measurement.")] = "10s",
    warm_up: Annotated[str, typer.Option("--warm-up")] = "1s",
    slo: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--slo", help="Latency to keep: 20ms."),
    ] = None,
    percentile: Annotated[
        float, typer.Option("--percentile", help="Of the queries that must keep it.")
    ] = 99.0,
    allow_refusals: Annotated[
        bool,
        typer.Option("--allow-refusals", help="Judge accepted queries only: a 503 is no miss."),
    ] = False,
    connections: Annotated[
        int, typer.Option("--connections", help="Most requests in flight, server scenario.")
    ] = 128,
    batch: Annotated[int, typer.Option("--batch", help="Rows in one request.")] = 1,
    json_tensors: Annotated[
        bool, typer.Option("--json-tensors", help="Tensors as JSON instead of bytes.")
    ] = False,
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--data", help="Examples, .npz (random within the datatypes)"),
    ] = None,
    shape: ShapeOption = None,
    body: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--body", help="POST this file to URL as it is, for any other server."),
    ] = None,
    token_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--token-file", help="Holds the bearer token."),
    ] = None,
    tls_ca: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--tls-ca", help="Certificates to trust, PEM."),
    ] = None,
    timeout: Annotated[str, typer.Option("--timeout", help="Of one query.")] = "10s",
    seed: Annotated[int, typer.Option("--seed")] = 0,
    json_: JsonOption = False,
) -> None:
    """Put load on a server that speaks the Open Inference Protocol; say whether it holds an SLO.

    Exit code 0: held, or no SLO given; 3: missed, or too few queries to tell.
    """
    from strop.cli import load_test as command

    options = command.Options(
        url=url,
        model=model,
        scenario=scenario,
        rate=rate,
        arrivals=arrivals,
        concurrency=concurrency,
        duration=duration,
        warm_up=warm_up,
        slo=slo,
        percentile=percentile,
        allow_refusals=allow_refusals,
        connections=connections,
        batch=batch,
        json_tensors=json_tensors,
        data=data,
        shape=shape or [],
        body=body,
        token_file=token_file,
        ca=tls_ca,
        timeout=timeout,
        seed=seed,
    )
    raise typer.Exit(command.load_test(options, as_json=json_))
