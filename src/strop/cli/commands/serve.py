"""`strop serve`: its options as they are typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from strop.cli.commands.options import ThreadsOption, TrustOption


def serve(
    models: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            metavar="[NAME=]PATH...",
            help="Bundles, what strop optimize wrote, ONNX files or OpenVINO .xml files.",
        ),
    ] = None,
    config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--config", help="A YAML file with models and options; options here win."),
    ] = None,
    host: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--host", help="Address to listen on [127.0.0.1]"),
    ] = None,
    http: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--http", "--port", help="Port of HTTP, or off [8000]"),
    ] = None,
    grpc: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--grpc", help="Port of gRPC, or off [8001, where grpcio is installed]"),
    ] = None,
    metrics: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--metrics", help="Port of Prometheus' metrics, or off [8002]"),
    ] = None,
    slo: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--slo", help="Refuse what could not be answered within: 20ms."),
    ] = None,
    max_batch: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--max-batch", help="Rows computed at once at most; 1 batches nothing [32]"),
    ] = None,
    workers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--workers", help="Batches of a model that run at once [as measured]"),
    ] = None,
    threads: ThreadsOption = None,
    cache: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--cache", help="Keep answers to equal requests: 256MB [off]"),
    ] = None,
    token_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--token-file", help="Bearer tokens that may load and unload models [nobody]"),
    ] = None,
    infer_token_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--infer-token-file", help="Bearer tokens that may infer [everybody]"),
    ] = None,
    tls_cert: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--tls-cert", help="Certificate chain as PEM."),
    ] = None,
    tls_key: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--tls-key", help="Its key as PEM."),
    ] = None,
    drain: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--drain", help="How long open requests may take at the end [30s]"),
    ] = None,
    log_requests: Annotated[
        bool, typer.Option("--log-requests", help="Log every request as a line of JSON.")
    ] = False,
    trust: TrustOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Load and check everything, serve nothing.")
    ] = False,
) -> None:
    """Serve models over the Open Inference Protocol, HTTP and gRPC, with dynamic batching."""
    from strop.cli import serve as command

    options = command.Options(
        models=models or [],
        config=config,
        host=host,
        http=http,
        grpc=grpc,
        metrics=metrics,
        slo=slo,
        max_batch=max_batch,
        workers=workers,
        threads=threads,
        cache=cache,
        token_file=token_file,
        infer_token_file=infer_token_file,
        tls_cert=tls_cert,
        tls_key=tls_key,
        drain=drain,
        log_requests=log_requests,
        trust=trust,
    )
    raise typer.Exit(command.run(options, dry_run=dry_run))
