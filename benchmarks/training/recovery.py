"""INT8 with some layers in float, made by hand: rounded, and then trained for its losses.

What a search would have to find: `int8-static` and `qat` with the same share of the layers in
float, on the same examples. There is no claim here, for nothing of it was proven; the table of
`efficientnet.py` says what both keep on examples that neither has seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import beside
import numpy as np

from strop import data as datasets
from strop import models, techniques
from strop.measure import describe
from strop.records import SessionSpec, Target
from strop.techniques import Context

KEPT = 0.1
_FOLDERS = {"by hand, rounded": "rounded", "by hand, trained": "trained"}


def make(model: Path, train: np.ndarray, judge: np.ndarray, folder: Path, seconds: float) -> None:
    """Write both models into `folder`.

    Parameters
    ----------
    train, judge
        float32[n, 3, 224, 224]: to learn and calibrate on, and to stop early by.
    seconds
        Of training.
    """
    imported = models.load(model, workdir=folder / "imported")
    target = Target(machine=describe(), goal="latency")
    read = {
        role: datasets.read({"image": images}, imported.signature)
        for role, images in (("train", train), ("calibrate", train), ("search", judge))
    }
    for name, made in (("int8-static", "rounded"), ("qat", "trained")):
        technique = techniques.get(name)
        workdir = folder / made
        workdir.mkdir(parents=True, exist_ok=True)
        technique.apply(
            imported,
            {**technique.space(imported, target).default, "keep_float": KEPT},
            Context(
                workdir=workdir,
                target=target,
                data=read,
                seconds=seconds,
                metric="agreement",
                emit=lambda line: print(f"  {line}", flush=True),
            ),
        )


def made(folder: Path) -> dict[str, SessionSpec]:
    """What :func:`make` has written, on OpenVINO with FP32 beside the INT8, by its row's name."""
    options: dict[str, Any] = {"precision": "f32", "shapes": "static"}
    return {
        name: beside.of_openvino(path, options, folder / f"{sub}-openvino")
        for name, sub in _FOLDERS.items()
        if (path := folder / sub / "onnx" / "model.onnx").exists()
    }
