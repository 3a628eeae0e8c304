"""Fashion-MNIST: the network and the test images that come with strop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from exporting import export, run

from strop.demo import fashion, resnet

DATA_ROWS = 7_000  # of 10,000; the rest is held out


def fetch(output: Path, cache: Path) -> str:
    image, target = fashion.load_test()
    order = np.random.default_rng(0).permutation(len(image))
    for file, rows in (("data", order[:DATA_ROWS]), ("heldout", order[DATA_ROWS:])):
        np.savez(output / f"{file}.npz", image=image[rows], target=target[rows])
    example = {"image": torch.from_numpy(image[:2])}
    export(resnet.build(), example, "logits", {0: "batch"}, output / "model.onnx")
    licence = Path(fashion.__file__).with_name("FASHION_MNIST_LICENSE.txt")
    (output / "LICENSE.txt").write_text(licence.read_text("utf-8"), "utf-8")
    logits = run(output / "model.onnx", {"image": image})
    accuracy = (logits.argmax(1) == target).mean()
    return f"accuracy {accuracy:.2%} on all {len(image)} test images"
