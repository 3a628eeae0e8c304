"""Italy's electricity demand hour by hour: is it a winter day? Trained here, on the UCR split.

67 days to train on and 1,029 to test, as in the UCR archive (ItalyPowerDemand, 1997). The network
is trained on the former alone, from seed 0; strop's rows are drawn from the latter.
"""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import numpy as np
import torch
from exporting import export, run
from packages import wheel
from safetensors.torch import save_file
from torch.nn import functional

DATA_ROWS = 700  # of 1,029 test days; the rest is held out
EPOCHS = 30
SOURCE = "aeon/datasets/data/ItalyPowerDemand/ItalyPowerDemand_{}.ts"


def fetch(output: Path, cache: Path) -> str:
    aeon = wheel("aeon==1.6.0", cache)
    train, test = (read(aeon.read(SOURCE.format(part)).decode()) for part in ("TRAIN", "TEST"))
    series, target = test
    order = np.random.default_rng(0).permutation(len(series))
    for file, rows in (("data", order[:DATA_ROWS]), ("heldout", order[DATA_ROWS:])):
        np.savez(output / f"{file}.npz", series=series[rows], target=target[rows])

    source = Path(__file__).parent / "files" / "power-demand" / "model.py"
    module = _trained(runpy.run_path(str(shutil.copy(source, output)))["Season"], *train)
    save_file(module.state_dict(), output / "model.safetensors")
    example = {"series": torch.from_numpy(series[:2])}
    export(module, example, "scores", {0: "batch"}, output / "model.onnx")
    (output / "LICENSE.txt").write_text(
        "Model: trained by strop's examples/zoo/power_demand.py, Apache-2.0.\n"
        "Data: ItalyPowerDemand of the UCR archive, as packaged by aeon 1.6.0 (BSD-3-Clause).\n"
    )
    accuracy = (run(output / "model.onnx", {"series": series}).argmax(1) == target).mean()
    return f"accuracy {accuracy:.2%} on the {len(series)} test days of the UCR split"


def read(text: str) -> tuple[np.ndarray, np.ndarray]:
    """A univariate `.ts` file: float32[n, 1, steps], and int64[n] classes from 0.

    After `@data` a line is one series: values by comma, a colon, the class as `@classLabel` has it.
    """
    head, _, body = text.partition("@data")
    (labels,) = (line.split()[2:] for line in head.splitlines() if line.startswith("@classLabel"))
    rows = [line.rsplit(":", 1) for line in body.split()]
    series = np.array([values.split(",") for values, _ in rows], np.float32)[:, None]
    return series, np.array([labels.index(label) for _, label in rows], np.int64)


def _trained(
    build: type[torch.nn.Module], series: np.ndarray, target: np.ndarray
) -> torch.nn.Module:
    """The last weights: there are too few days to set some aside and choose by them."""
    torch.manual_seed(0)
    module, x, y = build(), torch.from_numpy(series), torch.from_numpy(target)
    optimiser = torch.optim.AdamW(module.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    for _ in range(EPOCHS):
        # Days differ in level, in range and in noise: 16 variants of each, new in every epoch.
        days, classes = x.repeat(16, 1, 1), y.repeat(16)
        days = days * (1 + 0.1 * torch.randn(len(days), 1, 1)) + 0.1 * torch.randn(len(days), 1, 1)
        days = days + 0.1 * torch.randn_like(days)
        for rows in torch.randperm(len(days)).split(134):
            loss = functional.cross_entropy(module(days[rows]), classes[rows], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimiser.step()
        schedule.step()
    return module.eval()
