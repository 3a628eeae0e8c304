"""Tiny modules and rows for the techniques that train."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from strop import data, models
from strop.data import Dataset
from strop.models.model import Model

HEADER = """
import torch
from torch import nn
from torch.nn import functional
"""

RESIDUAL = (
    HEADER
    + """
class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.second(torch.relu(self.norm(self.first(x)))))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, padding=1)
        self.blocks = nn.Sequential(Block(32), Block(32))
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))

def build():
    torch.manual_seed(0)
    return Net().eval()
"""
)

ENCODER = (
    HEADER
    + """
class Net(nn.Module):
    def __init__(self, heads=4, size=8, inner=64):
        super().__init__()
        width = heads * size
        self.heads, self.size = heads, size
        self.embed = nn.Linear(6, width)
        self.query, self.key, self.value, self.mix = (nn.Linear(width, width) for _ in range(4))
        self.norm, self.last = nn.LayerNorm(width), nn.LayerNorm(width)
        self.widen, self.narrow = nn.Linear(width, inner), nn.Linear(inner, width)
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        x = self.embed(x)
        query, key, value = (
            part(self.norm(x)).unflatten(2, (self.heads, self.size)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = (query @ key.transpose(2, 3) * self.size**-0.5).softmax(-1)
        x = x + self.mix((scores @ value).transpose(1, 2).flatten(2))
        x = x + self.narrow(functional.gelu(self.widen(self.last(x))))
        return self.head(x.mean(1))

def build():
    torch.manual_seed(0)
    return Net().eval()
"""
)


def images(rows: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 1, 10, 10)).astype(np.float32)


def sequences(rows: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 5, 6)).astype(np.float32)


def write(source: str, x: np.ndarray, folder: Path) -> tuple[Model, Dataset]:
    """The module of `source` as a model, and `x` as unlabelled rows for it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "net.py"
    file.write_text(source)
    model = models.load(
        f"{file}:build", workdir=folder / "model", examples={"x": x[:8]}, trust=True
    )
    return model, data.read({"x": x}, model.signature)
