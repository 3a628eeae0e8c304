"""A tiny classification problem that a small network learns in a second."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from strop import data
from strop.data import Dataset
from strop.models.module_form import ModuleForm
from strop.records import Signature, TensorSpec

CLASSES = 4
FORM = ModuleForm(None, True, ("x",), ("y",), ("output",), "")


class Net(nn.Module):
    def __init__(self, width: int = 32, classes: int = CLASSES) -> None:
        super().__init__()
        self.first = nn.Linear(8, width)
        self.norm = nn.BatchNorm1d(width)
        self.second = nn.Linear(width, width)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        return self.head(torch.relu(self.second(x)))


def arrays(rows: int, seed: int = 0, *, labels: bool = True) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(CLASSES, 8)) * 1.5
    target = rng.integers(0, CLASSES, rows)
    x = (centres[target] + rng.normal(size=(rows, 8))).astype(np.float32)
    return {"x": x, "target": target} if labels else {"x": x}


def dataset(given: dict[str, np.ndarray]) -> Dataset:
    spec = TensorSpec(name="x", dtype="float32", shape=("batch", *given["x"].shape[1:]))
    return data.read(given, Signature(inputs=(spec,), outputs=()))


def accuracy(net: nn.Module, given: dict[str, np.ndarray]) -> float:
    with torch.no_grad():
        decided = net.eval()(torch.from_numpy(given["x"])).argmax(1).numpy()
    return float((decided == given["target"]).mean())


@pytest.fixture(scope="session")
def teacher() -> nn.Module:
    """Trained by hand, so that the trainer is not tested by its own doing."""
    torch.manual_seed(0)
    net, given = Net(), arrays(2000)
    x, y = torch.from_numpy(given["x"]), torch.from_numpy(given["target"])
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()
