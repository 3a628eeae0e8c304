"""EfficientNet-Lite0 as a torch module, for the eager baseline; needs what examples/zoo fetched.

The packages lie in fetch.py's cache: ``$STROP_ZOO_CACHE``, or where fetch.py puts them by default.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[2] / "examples" / "zoo"))

from efficientnet_lite0 import _module


class ByName(torch.nn.Module):
    """The network with its input called as in model.onnx."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network(image)


def build() -> torch.nn.Module:
    cache = os.environ.get("STROP_ZOO_CACHE", str(Path.home() / ".cache" / "strop-zoo"))
    return ByName(_module(Path(cache))).eval()
