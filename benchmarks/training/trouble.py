"""A network made to trouble pruning: trained on Fashion-MNIST, searched, timed.

    python benchmarks/training/trouble.py --data /usr/share/datasets/fashion-mnist [--budget 15m]

Trains the network where no weights lie beside this file (some six minutes on two cores), runs
``strop optimize`` on it, and prints how many times faster the delivered bundle is than ONNX
Runtime FP32 on the original, with the claim. ``--train-only`` ends after the training. Without the
folder of all images the 10,000 that come with strop serve: 7,000 to train on, the rest to judge.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

WEIGHTS = Path(__file__).with_name("trouble.safetensors")
EPOCHS, LEAST_STEPS = 3, 500


class Trouble(nn.Module):
    """Dense concatenation, channel split, groups, squeeze-excite, attention and attention pooling.

    Each of them ties channels together in another way: what a dense layer makes is read by all
    that follow, at an offset; a split must stay even; a group must lose as many as its neighbours;
    a gate must lose what it scales; a head goes whole; and two classifiers share one matrix.

    Parameters
    ----------
    width
        Channels after the stem, a multiple of 16.
    """

    def __init__(self, width: int = 48, classes: int = 10) -> None:
        super().__init__()
        self.stem = _conv(1, width, stride=1)
        self.dense = Dense(width, growth=width // 2, layers=3)
        self.reduce = _conv(width + 3 * (width // 2), 2 * width, kernel=1)
        self.split = Split(2 * width)
        self.grouped = Grouped(2 * width, groups=4)
        self.squeeze = SqueezeExcite(2 * width)
        self.attention = Attention(2 * width, heads=4)
        self.pool = AttentionPool(2 * width)
        self.feed = nn.Sequential(
            nn.Linear(2 * width, 4 * width), nn.GELU(), nn.Linear(4 * width, 2 * width)
        )
        self.head = nn.Linear(2 * width, classes)
        self.second_head = nn.Linear(2 * width, classes)
        self.second_head.weight = self.head.weight

    def forward(self, image: Tensor) -> Tensor:
        """float32[n, 1, 28, 28] within [0, 1] to float32[n, classes]."""
        x = self.dense(torch.relu(self.stem(image)))
        x = functional.max_pool2d(torch.relu(self.reduce(x)), 2)
        x = self.split(x)
        x = self.squeeze(self.grouped(x))
        x = functional.max_pool2d(x, 2)
        tokens = x.flatten(2).transpose(1, 2)
        pooled = self.pool(tokens + self.attention(tokens))
        pooled = pooled + self.feed(pooled)
        return (self.head(pooled) + self.second_head(tokens.mean(1))) / 2


class Dense(nn.Module):
    """Every layer reads what all before it made (Huang et al., 2017)."""

    def __init__(self, channels: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_conv(channels + i * growth, growth) for i in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, torch.relu(layer(x))], 1)
        return x


class Split(nn.Module):
    """Half of the channels goes through a depthwise convolution, half stays (Ma et al., 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            _conv(channels // 2, channels // 2, groups=channels // 2),
            nn.ReLU(),
            _conv(channels // 2, channels // 2, kernel=1),
        )
        self.mix = _conv(channels, channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, 1)
        return torch.relu(self.mix(torch.cat([kept, torch.relu(self.inner(changed))], 1)))


class Grouped(nn.Module):
    """A residual block whose inner convolution has groups (Xie et al., 2017)."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels, kernel=1)
        self.inner = _conv(channels, channels, groups=groups)
        self.last = _conv(channels, channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.inner(torch.relu(self.first(x))))
        return torch.relu(x + self.last(inner))


class SqueezeExcite(nn.Module):
    """Channels scaled by what their means say (Hu et al., 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, channels // 4, 1)
        self.up = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.relu(self.down(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.up(gate))


class Attention(nn.Module):
    """Self-attention whose heads are counted by an attribute."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.size = channels // heads
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))
        self.mix = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part(x).unflatten(2, (self.heads, self.size)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) * self.size**-0.5
        return self.mix((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))


class AttentionPool(nn.Module):
    """A mean over positions, weighted by a learned question."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Linear(channels, 1)
        self.value = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.score(x).softmax(1)
        return (weights * torch.relu(self.value(x))).sum(1)


def build() -> nn.Module:
    """The trained network, in eval mode."""
    model = Trouble()
    path = _weights()
    # Tied weights are on disk once.
    model.load_state_dict(load_file(path), strict=False)
    return model.eval()


def train(
    images: Tensor, labels: Tensor, *, epochs: int, batch: int, seed: int, width: int
) -> Trouble:
    """Train from scratch; float32[n, 1, 28, 28] and int64[n]."""
    torch.manual_seed(seed)
    model = Trouble(width).to(memory_format=torch.channels_last)
    steps = len(images) // batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2e-3, total_steps=epochs * steps, pct_start=0.2
    )
    for epoch in range(epochs):
        began, total = time.perf_counter(), 0.0
        model.train()
        for rows in torch.randperm(len(images))[: steps * batch].split(batch):
            with torch.autocast("cpu", torch.bfloat16):
                given = _mirrored(images[rows]).contiguous(memory_format=torch.channels_last)
                logits = model(given)
            loss = functional.cross_entropy(logits.float(), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.perf_counter() - began
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}, {seconds:.0f} s", flush=True)
    return model.to(memory_format=torch.contiguous_format).eval()


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images whose highest score is their label."""
    with torch.inference_mode():
        hits = [
            (model(part).argmax(1) == wanted).sum()
            for part, wanted in zip(images.split(500), labels.split(500), strict=True)
        ]
    return float(torch.stack(hits).sum() / len(labels))


def _mirrored(images: Tensor) -> Tensor:
    return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)


def _conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


def _fashion(folder: Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    from strop.demo.fashion import load_split, scale

    found = []
    for split in ("train", "t10k"):
        pixels, labels = load_split(folder, split)
        found.append((torch.from_numpy(scale(pixels)), torch.from_numpy(labels)))
    return found[0], found[1]


def _packaged() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    from strop.demo.fashion import load_test

    images, labels = (torch.from_numpy(array) for array in load_test())
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(images)))
    images, labels = images[order], labels[order]
    return (images[:7000], labels[:7000]), (images[7000:], labels[7000:])


def ensure(train: Path) -> None:
    """Train the network where no weights lie beside this file."""
    if not _weights().exists():
        with np.load(train) as file:
            _train_and_save(torch.from_numpy(file["image"]), torch.from_numpy(file["target"]))


def _weights() -> Path:
    return Path(os.environ.get("STROP_TROUBLE", WEIGHTS))


def _train_and_save(
    images: Tensor, labels: Tensor, *, epochs: int | None = None, batch: int = 128, seed: int = 0
) -> None:
    epochs = epochs or max(EPOCHS, LEAST_STEPS * batch // len(images))
    model = train(images, labels, epochs=epochs, batch=batch, seed=seed, width=48)
    state = {n: t.contiguous() for n, t in model.state_dict().items() if n != "second_head.weight"}
    save_file(state, _weights(), {"torch": torch.__version__})


def main() -> None:
    """Train where that is to do, then search and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST's four .gz files")
    parser.add_argument("--work", type=Path, default=Path("training-benchmark"))
    parser.add_argument("--budget", default="15m")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--epochs", type=int, help="of the network's own training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train-only", action="store_true")
    parser.add_argument(
        "--measure-only", action="store_true", help="time what an earlier run has left below WORK"
    )
    options = parser.parse_args()
    training, test = _packaged() if options.data is None else _fashion(options.data)
    if options.train_only or not _weights().exists():
        _train_and_save(*training, epochs=options.epochs, seed=options.seed)
        print(f"{_weights()}: accuracy {accuracy(build(), *test):.4f} on the test images")
    if options.train_only:
        return
    import report
    import run

    options.work.mkdir(parents=True, exist_ok=True)
    paths = options.work / "trouble-train.npz", options.work / "trouble-test.npz"
    for path, (images, labels) in zip(paths, (training, test), strict=True):
        np.savez(path, image=images.numpy(), target=labels.numpy())
    if not options.measure_only:
        found = run.make("trouble", *paths, options)
        report.merge("trouble", {**found, "budget": options.budget})
    run.measure(["trouble"], *paths, options.work)


if __name__ == "__main__":
    main()
