"""The commands and their options; what they do lives in modules of their own.

Exit codes: 0 improved, or done; 3 nothing better could be claimed, or a check stayed unproven; 2
bad input, one clear line; 1 a failed check, or a fault of strop's own; 130 interrupted. Results go
to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

app = typer.Typer(
    name="strop",
    help="Makes trained models fast and small, and proves that they stayed good.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

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


def run() -> None:
    """Run the app; strop's own errors are one line."""
    from strop.errors import InputError, StropError

    try:
        # Outside standalone mode typer returns the code of an Exit rather than raising it.
        code = app(prog_name="strop", standalone_mode=False)
    except InputError as error:
        _fail(str(error), 2)
    except StropError as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, EOFError, typer.Abort):
        _fail("interrupted", 130)
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
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to make.")] = Path(
        "out"
    ),
    metric: MetricOption = None,
    goal: Annotated[
        str, typer.Option("--goal", help="latency, throughput, memory or size.")
    ] = "latency",
    budget: Annotated[str, typer.Option("--budget", help="Wall time: 90s, 10m, 1h.")] = "10m",
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
        typer.Option("--train", help="Examples for calibration; none of --data is used then."),
    ] = None,
    prove: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--prove", help="The proof set outright, instead of a part of --data."),
    ] = None,
    confidence: Annotated[
        str, typer.Option("--confidence", help="Of the claim: 95% or 0.95.")
    ] = "95%",
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
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to make.")] = Path(
        "demo-out"
    ),
    budget: Annotated[str, typer.Option("--budget", help="Wall time.")] = "2m",
    json_: JsonOption = False,
) -> None:
    """Optimise the network and the images that come with strop (Fashion-MNIST)."""
    from strop.cli import demo as command

    raise typer.Exit(command.run(output, budget, as_json=json_))


@app.command()
def inspect(
    model: Model,
    shape: ShapeOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure nothing: no roofline bound.")
    ] = False,
    trust: TrustOption = False,
    json_: JsonOption = False,
) -> None:
    """Show what a model is, what a call costs, how fast it could be here, and what applies."""
    from strop.cli import inspect as command

    raise typer.Exit(command.run(model, shape or [], quick=quick, trust=trust, as_json=json_))


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="A model or a bundle: the reference.")],
    b: Annotated[str, typer.Argument(help="The one to hold against it.")],
    data: DataOption,
    metric: MetricOption = None,
    batch: BatchOption = 1,
    threads: ThreadsOption = None,
    launches: Annotated[
        int, typer.Option("--launches", help="Pairs of processes to time; 0 times nothing.")
    ] = 5,
    confidence: Annotated[
        str, typer.Option("--confidence", help="Of the intervals: 95% or 0.95.")
    ] = "95%",
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
    launches: Annotated[int, typer.Option("--launches", help="Pairs of processes to time.")] = 5,
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


def _fail(message: str, code: int) -> None:
    if line := " ".join(message.split()):  # without a command the help has said it all
        sys.stderr.write(f"strop: {line}\n")
    sys.exit(code)
