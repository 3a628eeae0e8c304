"""`strop serve`: options to a configuration, then the server until it is told to stop."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from strop.serve.config import ServerConfig, from_options


@dataclass(frozen=True)
class Options:
    """The command's options as they were typed."""

    models: list[str]
    config: Path | None
    host: str | None
    http: str | None
    grpc: str | None
    metrics: str | None
    slo: str | None
    max_batch: int | None
    workers: int | None
    threads: int | None
    cache: str | None
    token_file: Path | None
    infer_token_file: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    drain: str | None
    log_requests: bool
    trust: bool


def run(options: Options, *, dry_run: bool) -> int:
    """Serve, or only check that it could be done; the exit code."""
    config = config_of(options)
    from strop.serve import server

    if not dry_run:
        return server.serve(config)
    code = server.check(config)
    names = ", ".join(sorted(config.models))
    sys.stdout.write(f"ready to serve {names}: every model loads and answers\n")
    return code


def config_of(options: Options) -> ServerConfig:
    """What was typed as what is meant; InputError when it means nothing."""
    return from_options(
        options.models,
        config=options.config,
        server={
            "host": options.host,
            "http": options.http,
            "grpc": options.grpc,
            "metrics": options.metrics,
            "token_file": options.token_file,
            "infer_token_file": options.infer_token_file,
            "tls_cert": options.tls_cert,
            "tls_key": options.tls_key,
            "drain": options.drain,
            "log_requests": options.log_requests or None,
        },
        defaults={
            "slo": options.slo,
            "max_batch": options.max_batch,
            "workers": options.workers,
            "threads": options.threads,
            "cache": options.cache,
            "trust": options.trust or None,
        },
    )
