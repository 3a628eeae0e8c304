"""Train the demo network, so that anyone can make its checkpoint again.

Run ``python -m strop.demo.train --data DIR --output FILE``, where DIR holds the four ``.gz`` files
of Fashion-MNIST (the Debian package ``dataset-fashion-mnist`` puts them under
``/usr/share/datasets/fashion-mnist``). It takes some 15 minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from strop.demo.fashion import load_split
from strop.demo.resnet import ResNet


def train(data: Path, *, epochs: int = 6, batch: int = 128, seed: int = 0) -> tuple[ResNet, float]:
    """Train from scratch on the 60,000 training images.

    SGD with Nesterov momentum under the one-cycle schedule (Smith and Topin, 2018), label
    smoothing, random flips and shifts; bfloat16 where the processor multiplies it natively. The
    test images are looked at once, after the last step, so that their accuracy is honest.

    Parameters
    ----------
    data
        Folder of the four ``.gz`` files.
    epochs, batch, seed
        Passes over the training images, images a step, seed of weights, order and augmentation.

    Returns
    -------
    model
        The trained network, in eval mode.
    accuracy
        On the 10,000 test images, in float32.
    """
    torch.manual_seed(seed)
    pixels, labels = (torch.from_numpy(array) for array in load_split(data, "train"))
    model = ResNet()
    steps = len(pixels) // batch  # the short last batch is dropped; the order changes every epoch
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.15, total_steps=epochs * steps, pct_start=0.25
    )
    for epoch in range(epochs):
        began, total = time.perf_counter(), 0.0
        model.train()
        for rows in torch.randperm(len(pixels))[: steps * batch].split(batch):
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(_augment(pixels[rows]))
            loss = functional.cross_entropy(logits.float(), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.perf_counter() - began
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}, {seconds:.0f} s", flush=True)
    model.eval()
    return model, accuracy(model, *(torch.from_numpy(a) for a in load_split(data, "t10k")))


def accuracy(model: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    """Share of uint8[n, 1, 28, 28] images whose highest score is their label, int64[n]."""
    pairs = zip(pixels.split(500), labels.split(500), strict=True)
    with torch.inference_mode():
        hits = sum(int((model(images / 255).argmax(1) == wanted).sum()) for images, wanted in pairs)
    return hits / len(labels)


def _augment(pixels: Tensor) -> Tensor:
    """Half of the images mirrored, each shifted by up to 2 pixels; float32 within [0, 1]."""
    images = pixels.float() / 255
    mirrored = torch.rand(len(images), 1, 1, 1) < 0.5
    images = functional.pad(torch.where(mirrored, images.flip(3), images), (2, 2, 2, 2))
    top, left = torch.randint(0, 5, (2, len(images), 1, 1))
    rows, columns = top + torch.arange(28)[:, None], left + torch.arange(28)
    return images[torch.arange(len(images))[:, None, None], 0, rows, columns][:, None]


def main() -> None:
    """Parse the command line, train, write the checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m strop.demo.train", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the four .gz files")
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model, score = train(
        options.data, epochs=options.epochs, batch=options.batch, seed=options.seed
    )
    metadata = {
        "accuracy": f"{score:.4f}",
        "epochs": str(options.epochs),
        "seed": str(options.seed),
        "torch": torch.__version__,
    }
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, options.output, metadata)
    print(f"{options.output}: accuracy {score:.4f} on the 10,000 test images")


if __name__ == "__main__":
    main()
