"""A small trained ResNet for Fashion-MNIST.

``strop optimize path/to/resnet.py:build --trust`` reads it as any other module; strop itself never
imports this file, so torch may be imported at its top.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

CHECKPOINT = Path(__file__).with_name("fashion_mnist_resnet.safetensors")


class ResNet(nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """Residual network for 28x28 grey images, 3 stages of 2 basic blocks (He et al., 2016).

    Parameters
    ----------
    width
        Channels of the first stage; each later stage doubles them and halves the resolution.
    classes
        Number of outputs.

    Examples
    --------
    >>> ResNet(width=8)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(self, width: int = 32, classes: int = 10) -> None:
        super().__init__()
        self.stem = _conv(1, width)
        self.blocks = nn.Sequential(
            _Block(width, width, stride=1),
            _Block(width, width, stride=1),
            _Block(width, 2 * width, stride=2),
            _Block(2 * width, 2 * width, stride=1),
            _Block(2 * width, 4 * width, stride=2),
            _Block(4 * width, 4 * width, stride=1),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4 * width, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Class scores before softmax.

        Parameters
        ----------
        image
            float32[n, 1, 28, 28], grey levels divided by 255 (within [0, 1]).

        Returns
        -------
        float32[n, classes].
        """
        features = self.blocks(torch.relu(self.stem(image)))
        logits: Tensor = self.head(self.pool(features).flatten(1))
        return logits


def build() -> nn.Module:
    """The trained network (width 32, 0.70 M parameters), in eval mode.

    Raises
    ------
    FileNotFoundError
        The checkpoint does not lie beside this file.
    """
    model = ResNet()
    model.load_state_dict(load_file(CHECKPOINT))
    return model.eval()


class _Block(nn.Module):  # type: ignore[misc]
    """Two 3x3 convolutions and a shortcut, 1x1 where the shape changes."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = _conv(channels_in, channels, stride=stride)
        self.second = _conv(channels, channels)
        same = stride == 1 and channels_in == channels
        self.shortcut = (
            nn.Identity() if same else _conv(channels_in, channels, kernel=1, stride=stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.second(torch.relu(self.first(x)))
        return torch.relu(residual + self.shortcut(x))


def _conv(channels_in: int, channels: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels),
    )
