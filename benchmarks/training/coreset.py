"""A coreset beside a random choice of the same size, when there is no time for all examples.

    python benchmarks/training/coreset.py --data /usr/share/datasets/fashion-mnist

The teacher is the demo's ResNet. The student is one of width 8 that starts from nothing, or the
teacher with half of each layer's channels, which starts from what is left of it. Either has as many
steps for one choice as for the other, counted and not timed. Results go to ``coreset.json`` and
into the README beside this file. Within ten minutes on two cores; more ``--seeds`` tell more.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import report
import torch

from strop import data as datasets
from strop.data import Dataset
from strop.demo.fashion import load_split, scale
from strop.demo.resnet import ResNet, build
from strop.models.module_form import ModuleForm
from strop.models.module_plan import apply_plan
from strop.records import Signature, TensorSpec
from strop.techniques.narrow import narrower
from strop.training import TrainSettings, selection, train

FORM = ModuleForm(None, True, ("image",), ("output",), ("output",), "")
BATCH, JUDGED, LR = 64, 2000, 3e-3
HERE = Path(__file__).parent


def make(kind: str, seed: int) -> torch.nn.Module:
    """A student: ``scratch`` or ``narrow``."""
    torch.manual_seed(seed)
    if kind == "scratch":
        return ResNet(width=8)
    teacher = build()
    op = narrower(teacher, FORM, {"image": torch.zeros(2, 1, 28, 28)}, 0.5)
    return apply_plan(teacher, [op])


def student_accuracy(
    kind: str,
    training: Dataset,
    judge: Dataset,
    test: Dataset,
    *,
    visits: int,
    rows: str,
    seed: int,
    cache: Path,
) -> dict[str, Any]:
    """Train a student for so many visits of examples; what it reaches on the test images."""
    student = make(kind, seed)
    settings = TrainSettings(
        epochs=visits / len(training), batch=BATCH, lr=LR, examples=rows, teacher_cache=cache
    )
    with tempfile.TemporaryDirectory() as folder:
        found = train(
            student,
            form=FORM,
            teacher=build(),
            data=training,
            settings=settings,
            workdir=Path(folder),
            seed=seed,
            judge=judge,
        )
    hits = 0
    with torch.inference_mode():
        for part, arrays in test.batches(500):
            decided = student(torch.from_numpy(arrays["image"])).argmax(1).numpy()
            hits += int((decided == test.targets(part)).sum())
    return {"rows": found.chosen, "count": found.rows, "accuracy": hits / len(test)}


def table(results: list[dict[str, Any]]) -> list[str]:
    """Markdown lines: mean and standard deviation over the seeds, by number of visits.

    How far the coreset is ahead is taken seed by seed: both students start alike.
    """
    lines = [
        "| student | visits | passes | examples | coreset | random | points ahead (range) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for key in sorted({_key(row) for row in results}):
        by_seed = {
            name: {
                r["seed"]: r["accuracy"] for r in results if _key(r) == key and r["rows"] == name
            }
            for name in ("coreset", "random")
        }
        seeds = sorted(by_seed["coreset"].keys() & by_seed["random"].keys())
        if not seeds:
            continue
        of = {name: np.array([found[seed] for seed in seeds]) for name, found in by_seed.items()}
        count = next(r["count"] for r in results if _key(r) == key)
        told = {name: _mean(values) for name, values in of.items()}
        ahead = 100 * (of["coreset"] - of["random"])
        lines.append(
            f"| {key[0]} | {key[1]:,} | {key[2]:g} | {count:,} | {told['coreset']} "
            f"| {told['random']} | {ahead.mean():+.2f} ({ahead.min():+.2f} to {ahead.max():+.2f}) |"
        )
    return lines


def _mean(values: np.ndarray) -> str:
    spread = f" ± {values.std(ddof=1):.2%}" if len(values) > 1 else ""
    return f"{values.mean():.2%}{spread}"


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["student"], row["visits"], row["passes"]


def main() -> None:
    """Train every combination; print and write the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--examples", type=int, default=20_000, help="to choose from")
    parser.add_argument("--students", nargs="+", default=["scratch", "narrow"])
    parser.add_argument("--visits", type=int, nargs="+", default=[3_000, 10_000])
    parser.add_argument("--passes", type=float, nargs="+", default=[selection.REPEATS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=HERE / "coreset.json")
    options = parser.parse_args()
    spec = TensorSpec(name="image", dtype="float32", shape=("n", 1, 28, 28))
    signature = Signature(inputs=(spec,), outputs=())
    whole, test = (
        datasets.read({"image": scale(pixels), "target": labels}, signature)
        for pixels, labels in (load_split(options.data, split) for split in ("train", "t10k"))
    )
    training = whole.subset(np.arange(options.examples))
    judge = whole.subset(np.arange(len(whole) - JUDGED, len(whole)))
    results, began = [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for kind, visits, passes, seed, rows in itertools.product(
            options.students,
            options.visits,
            options.passes,
            range(options.seeds),
            ("coreset", "random"),
        ):
            selection.REPEATS = passes
            found = student_accuracy(
                kind,
                training,
                judge,
                test,
                visits=visits,
                rows=rows,
                seed=seed,
                cache=Path(folder),
            )
            run = {"student": kind, "visits": visits, "passes": passes, "seed": seed}
            results.append({**run, **found})
            print(f"{time.monotonic() - began:4.0f} s", results[-1], flush=True)
    document = {"machine": report.machine(), "seconds": time.monotonic() - began, "runs": results}
    options.output.write_text(json.dumps(document, indent=1) + "\n")
    if options.output.parent == HERE:
        report.write(HERE)


if __name__ == "__main__":
    main()
