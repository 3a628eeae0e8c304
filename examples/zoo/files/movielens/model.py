"""The torch module behind model.onnx: `strop optimize model.py:build --trust`."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

USERS, ITEMS = 943, 1_682  # ids are 1 to this
WIDTH, LAYERS = 64, (256, 128, 64)
WEIGHTS = Path(__file__).with_name("model.safetensors")


class NeuMF(nn.Module):
    """Neural matrix factorisation (He et al., 2017): a product of factors beside a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.user_factors = nn.Embedding(USERS + 1, WIDTH)
        self.item_factors = nn.Embedding(ITEMS + 1, WIDTH)
        self.user_features = nn.Embedding(USERS + 1, WIDTH)
        self.item_features = nn.Embedding(ITEMS + 1, WIDTH)
        widths = (2 * WIDTH, *LAYERS)
        layers = [
            part
            for before, after in pairwise(widths)
            for part in (nn.Linear(before, after), nn.ReLU(), nn.Dropout(0.3))
        ]
        self.tower = nn.Sequential(*layers)
        self.head = nn.Linear(WIDTH + LAYERS[-1], 1)
        for part in self.modules():
            if isinstance(part, nn.Embedding):
                nn.init.normal_(part.weight, std=0.05)  # torch's 1.0 drowns what is learned

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """int64[n] ids each, to float32[n]: the logit of "this user likes this film"."""
        product = self.user_factors(user) * self.item_factors(item)
        pair = torch.cat([self.user_features(user), self.item_features(item)], dim=1)
        logit: Tensor = self.head(torch.cat([product, self.tower(pair)], dim=1))
        return logit.squeeze(1)


def build() -> nn.Module:
    """The trained network, in eval mode; its weights lie beside this file."""
    model = NeuMF()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()
