"""The torch module behind model.onnx: `strop optimize model.py:build --trust`."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

CHANNELS, HIDDEN, CLASSES, KERNEL = 64, 128, 2, 3
WEIGHTS = Path(__file__).with_name("model.safetensors")


class Season(nn.Module):
    """Two causal convolutions, two layers of gated recurrent units (Cho et al., 2014), a head.

    No step looks ahead, so the scores of a day could be had hour by hour.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, CHANNELS, KERNEL)
        self.second = nn.Conv1d(CHANNELS, CHANNELS, KERNEL, dilation=2)
        self.recurrent = nn.GRU(CHANNELS, HIDDEN, num_layers=2, batch_first=True, dropout=0.2)
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, series: Tensor) -> Tensor:
        """float32[n, 1, steps] to class scores float32[n, 2]."""
        x = functional.relu(self.first(functional.pad(series, (KERNEL - 1, 0))))
        x = functional.relu(self.second(functional.pad(x, (2 * (KERNEL - 1), 0))))
        steps, _ = self.recurrent(x.transpose(1, 2))
        last: Tensor = self.head(steps[:, -1])
        return last


def build() -> nn.Module:
    """The trained network, in eval mode; its weights lie beside this file."""
    model = Season()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()
