"""A coreset beside a random choice of the same size: one student, several seeds, real images.

    python benchmarks/training/coreset.py --data /usr/share/datasets/fashion-mnist \
        --counts 500 2000 --seeds 3 --output coreset.json

The student is the demo's ResNet at width 8, trained from scratch under the demo's network as
teacher, with the same number of steps for every choice.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from strop import data as datasets
from strop.data import Dataset
from strop.demo.fashion import load_split, scale
from strop.demo.resnet import ResNet, build
from strop.models.module_form import ModuleForm
from strop.records import Signature, TensorSpec
from strop.training import TrainSettings, train
from strop.training.coreset import choose, hardness

FORM = ModuleForm(None, True, ("image",), ("output",), ("output",), "")
BATCH = 64


def student_accuracy(part: Dataset, steps: int, seed: int, test: Dataset) -> float:
    """Of a width-8 student trained on `part` for so many steps, on the test images."""
    torch.manual_seed(seed)
    student = ResNet(width=8)
    rows = len(part) - int(0.1 * len(part))
    settings = TrainSettings(epochs=steps / max(rows // BATCH, 1), batch=BATCH, lr=3e-3)
    with tempfile.TemporaryDirectory() as folder:
        train(
            student,
            form=FORM,
            teacher=build(),
            data=part,
            settings=settings,
            workdir=Path(folder),
            seed=seed,
        )
    hits = 0
    with torch.inference_mode():
        for rows_, arrays in test.batches(500):
            found = student(torch.from_numpy(arrays["image"])).argmax(1).numpy()
            hits += int((found == test.targets(rows_)).sum())
    return hits / len(test)


def main() -> None:
    """Train every combination; print and write the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--counts", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    spec = TensorSpec(name="image", dtype="float32", shape=("n", 1, 28, 28))
    signature = Signature(inputs=(spec,), outputs=())
    training, test = (
        datasets.read({"image": scale(pixels), "target": labels}, signature)
        for pixels, labels in (load_split(options.data, split) for split in ("train", "t10k"))
    )
    scores = hardness(training, FORM, build())
    results = []
    for count in options.counts:
        for seed in range(options.seeds):
            chosen = choose(scores, count, seed=seed)
            random = np.random.default_rng([seed, 5]).permutation(len(training))[:count]
            for name, rows in (("coreset", chosen), ("random", random)):
                accuracy = student_accuracy(training.subset(rows), options.steps, seed, test)
                results.append({"count": count, "seed": seed, "rows": name, "accuracy": accuracy})
                print(results[-1], flush=True)
    if options.output:
        options.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
