"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="model.onnx, or net.py:callable with --trust")
]
Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL...",
        help="model.onnx, or net.py:callable with --trust; further networks for the same task may "
        "follow: the first is the original",
    ),
]
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
DeviceOption = Annotated[
    str, typer.Option("--device", help="What to run on: cpu, cuda, cuda:1, gpu, npu, qnn …")
]
MetricOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--metric", help="A metric's name, or file.py:fn [by the data]"),
]
BatchOption = Annotated[int, typer.Option("--batch", help="Batch size that is timed.")]
FreeBatchOption = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        "--batch",
        help="Batch size that is timed: 1, or the best one where the goal is throughput or cost.",
    ),
]
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
PriceOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--price", help="Of one machine: 0.18/h, $4/day; tells what inferences cost."),
]
WattsOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--watts-per-core",
        help="Of one busy logical CPU, where energy is estimated [by the processor]",
    ),
]
LaunchesOption = Annotated[
    int, typer.Option("--launches", help="Pairs of fresh processes to time.")
]
