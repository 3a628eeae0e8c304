"""The commands and their options; what they do lives in modules of their own.

Exit codes: 0 improved, or done; 3 nothing better could be claimed, or a check stayed unproven; 2
bad input, one clear line; 1 a failed check, or a fault of strop's own; 130 interrupted. Results go
to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import Annotated, Optional, TextIO

import typer

app = typer.Typer(
    name="strop",
    help="Makes trained models fast and small, and proves that they stayed good.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

_FULL = (errno.ENOSPC, errno.EDQUOT)

Model = Annotated[str, typer.Argument(help="model.onnx, or net.py:callable with --trust")]
DataOption = Annotated[
    str, typer.Option("--data", help=".npz, .parquet, .csv, a folder of images, or file.py:fn")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
TrustOption = Annotated[
    bool, typer.Option("--trust", help="Run the Python code that the arguments name.")
]
ThreadsOption = Annotated[
    Optional[int], typer.Option("--threads", help="Threads of one inference [all cores granted]")  # noqa: UP045
]
MetricOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--metric", help="A metric's name, or file.py:fn [by the data]"),
]
BatchOption = Annotated[int, typer.Option("--batch", help="Batch size that is timed.")]
ShapeOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--shape", help="Dimensions of an input: ids=1x128."),
]
ReaderOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--reader", help="A data reader's name [by the file's name]"),
]
PreprocessOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--preprocess", help="file.py:fn, applied to each batch of examples."),
]
InputOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--input", help="Array name for an input: ids=token_ids."),
]

ConfidenceOption = Annotated[
    str, typer.Option("--confidence", help="Of claims, bounds and intervals: 95% or 0.95.")
]
BudgetOption = Annotated[str, typer.Option("--budget", help="Wall time: 90s, 10m, 1h.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="The folder to make.")]
LaunchesOption = Annotated[
    int, typer.Option("--launches", help="Pairs of fresh processes to time.")
]


def run() -> None:
    """Run the app; strop's own errors are one line."""
    from strop.errors import InputError, StropError

    try:
        # Outside standalone mode typer returns the code of an Exit rather than raising it.
        code = app(prog_name="strop", standalone_mode=False)
        sys.stdout.flush()  # here, where a full disk still can be told in one line
    except InputError as error:
        _fail(str(error), 2)
    except StropError as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, EOFError, typer.Abort):
        _fail("interrupted", 130)
    except BrokenPipeError:
        _silence(sys.stdout)  # whoever read has seen enough
        sys.exit(141)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        _silence(sys.stdout)
        what = f"'{error.filename}'" if error.filename else "the output"
        _fail(f"{what} cannot be written: {error.strerror}; make room", 2)
    except Exception as error:
        # Not by class: recent versions of typer raise from a copy of click of their own.
        explain = getattr(error, "format_message", None)
        if explain is None:
            raise
        _fail(explain(), 2)
    else:
        sys.exit(code if isinstance(code, int) else 0)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Makes trained models fast and small, and proves that they stayed good."""
    if version:
        from strop import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.command()
def optimize(
    model: Model,
    data: DataOption,
    within: Annotated[
        str, typer.Option("--within", help="How much of the metric may be lost: 1% or 1%rel.")
    ],
    output: OutputOption = Path("out"),
    metric: MetricOption = None,
    goal: Annotated[
        str, typer.Option("--goal", help="latency, throughput, memory or size.")
    ] = "latency",
    budget: BudgetOption = "10m",
    batch: BatchOption = 1,
    threads: ThreadsOption = None,
    max_memory: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--max-memory", help="Peak memory of the process: 200MB."),
    ] = None,
    max_p99: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--max-p99", help="Longest 99th percentile of a call: 20ms."),
    ] = None,
    shape: ShapeOption = None,
    train: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--train",
            help="Examples to train and calibrate on, labels optional; none of --data is used.",
        ),
    ] = None,
    train_budget: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--train-budget", help="Part of --budget for training: 20m; 0 for none."),
    ] = None,
    student: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--student", help="A network of your own to train instead: file.py:fn."),
    ] = None,
    prove: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--prove", help="The proof set outright, instead of a part of --data."),
    ] = None,
    confidence: ConfidenceOption = "95%",
    seed: Annotated[int, typer.Option("--seed")] = 0,
    reader: ReaderOption = None,
    preprocess: PreprocessOption = None,
    inputs: InputOption = None,
    output_names: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--output-names", help="Names for a module's outputs, by comma."),
    ] = None,
    engine: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--engine", help="Search these engines only; may be repeated."),
    ] = None,
    technique: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--technique", help="Search these techniques only; may be repeated."),
    ] = None,
    strategy: Annotated[
        str, typer.Option("--strategy", help="evidence, random or exhaustive.")
    ] = "evidence",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the interrupted search in --output.")
    ] = False,
    trust: TrustOption = False,
    json_: JsonOption = False,
) -> None:
    """Find the fastest version that is proven to stay within a tolerance."""
    from strop.cli import optimize as command

    code = command.run(
        command.Options(
            model=model,
            data=data,
            within=within,
            output=output,
            metric=metric,
            goal=goal,
            budget=budget,
            batch=batch,
            threads=threads,
            max_memory=max_memory,
            max_p99=max_p99,
            shape=shape or [],
            train=train,
            train_budget=train_budget,
            student=student,
            prove=prove,
            confidence=confidence,
            seed=seed,
            reader=reader,
            preprocess=preprocess,
            inputs=inputs or [],
            output_names=output_names,
            engines=engine,
            techniques=technique,
            strategy=strategy,
            resume=resume,
            trust=trust,
        ),
        as_json=json_,
    )
    raise typer.Exit(code)


@app.command()
def demo(
    output: OutputOption = Path("demo-out"),
    budget: BudgetOption = "2m",
    json_: JsonOption = False,
) -> None:
    """Optimise the network and the images that come with strop (Fashion-MNIST)."""
    from strop.cli import demo as command

    raise typer.Exit(command.run(output, budget, as_json=json_))


@app.command()
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


@app.command()
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


@app.command()
def profile(
    model: Annotated[str, typer.Argument(help="A model or a bundle.")],
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
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML page.")] = Path(
        "profile.html"
    ),
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


@app.command()
def bench(
    bundle: Annotated[Path, typer.Argument(help="The folder of a bundle.")],
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
        reader=reader,
        preprocess=preprocess,
        inputs=inputs or [],
        trust=trust,
    )
    raise typer.Exit(command.run(options, as_json=json_))


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="The folder of a bundle.")],
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


@app.command()
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
        typer.Option("--http", help="Port of HTTP, or off [8000]"),
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


@app.command()
def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="What strop optimize wrote (--output).")
    ],
) -> None:
    """Write the HTML report of a search again, and print its path."""
    from strop.cli import report as command

    raise typer.Exit(command.run(folder))


@app.command()
def doctor(
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the measurements.")] = False,
    json_: JsonOption = False,
) -> None:
    """Show what this machine and this installation can do, and what stands in their way."""
    from strop.cli import doctor as command

    raise typer.Exit(command.run(quick=quick, as_json=json_))


def _silence(stream: TextIO) -> None:
    """Let what is still in a stream's buffer go nowhere when the interpreter ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@app.command("load-test")
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


def _fail(message: str, code: int) -> None:
    if line := " ".join(message.split()):  # without a command the help has said it all
        sys.stderr.write(f"strop: {line}\n")
    sys.exit(code)
