"""`strop optimize`: its options as they are typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from strop.cli.commands.options import (
    BudgetOption,
    ConfidenceOption,
    DataOption,
    DeviceOption,
    FreeBatchOption,
    InputOption,
    JsonOption,
    MetricOption,
    Models,
    OutputOption,
    PreprocessOption,
    PriceOption,
    ReaderOption,
    ShapeOption,
    ThreadsOption,
    TrustOption,
    WattsOption,
)


def optimize(
    models: Models,
    data: DataOption,
    within: Annotated[
        str, typer.Option("--within", help="How much of the metric may be lost: 1% or 1%rel.")
    ],
    output: OutputOption = Path("out"),
    metric: MetricOption = None,
    goal: Annotated[
        str, typer.Option("--goal", help="latency, throughput, memory, size, energy or cost.")
    ] = "latency",
    budget: BudgetOption = "10m",
    batch: FreeBatchOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = "cpu",
    max_memory: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--max-memory", help="Peak memory of the process: 200MB."),
    ] = None,
    max_p99: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--max-p99", help="Longest 99th percentile of a call: 20ms."),
    ] = None,
    price: PriceOption = None,
    rate: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--rate", help="Inferences that are required, for their cost: 200/s."),
    ] = None,
    max_utilisation: Annotated[
        str, typer.Option("--max-utilisation", help="Share of a machine that --rate may use.")
    ] = "100%",
    watts_per_core: WattsOption = None,
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
            models=models,
            data=data,
            within=within,
            output=output,
            metric=metric,
            goal=goal,
            budget=budget,
            batch=batch,
            threads=threads,
            device=device,
            max_memory=max_memory,
            max_p99=max_p99,
            price=price,
            rate=rate,
            max_utilisation=max_utilisation,
            watts_per_core=watts_per_core,
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
