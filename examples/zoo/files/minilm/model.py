"""all-MiniLM-L6-v2 as a plain torch module: `strop optimize model.py:build --trust`."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

HIDDEN, HEADS, LAYERS, INNER, VOCABULARY, POSITIONS = 384, 12, 6, 1536, 30_522, 512
WEIGHTS = Path(__file__).with_name("model.safetensors")


class MiniLM(nn.Module):
    """Sentence encoder: BERT with 6 layers (Wang et al., 2020), mean pooling, unit length."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, HIDDEN)
        self.positions = nn.Embedding(POSITIONS, HIDDEN)
        self.types = nn.Embedding(2, HIDDEN)  # sentence A or B; here always A
        self.norm = nn.LayerNorm(HIDDEN, eps=1e-12)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """int64[n, length] token ids, and 1 for a token or 0 for padding, to float32[n, 384]."""
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.positions(places) + self.types.weight[0])
        kept = mask.to(x.dtype)
        bias = ((1 - kept) * -1e4)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, bias)
        summed = (x * kept[:, :, None]).sum(1)
        return functional.normalize(summed / kept.sum(1, keepdim=True).clamp(min=1), dim=1)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.mix = (nn.Linear(HIDDEN, HIDDEN) for _ in range(4))
        self.widen, self.narrow = nn.Linear(HIDDEN, INNER), nn.Linear(INNER, HIDDEN)
        self.norm1, self.norm2 = (nn.LayerNorm(HIDDEN, eps=1e-12) for _ in range(2))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        query, key, value = (
            part(x).unflatten(2, (HEADS, HIDDEN // HEADS)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) / (HIDDEN // HEADS) ** 0.5 + bias
        attended = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.mix(attended))
        return self.norm2(x + self.narrow(functional.gelu(self.widen(x))))


def build() -> nn.Module:
    """The trained encoder, in eval mode; its weights lie beside this file."""
    names = {
        "attention.self.query": "query",
        "attention.self.key": "key",
        "attention.self.value": "value",
        "attention.output.dense": "mix",
        "attention.output.LayerNorm": "norm1",
        "intermediate.dense": "widen",
        "output.dense": "narrow",
        "output.LayerNorm": "norm2",
        "embeddings.word_embeddings": "words",
        "embeddings.position_embeddings": "positions",
        "embeddings.token_type_embeddings": "types",
        "embeddings.LayerNorm": "norm",
        "encoder.layer": "layers",
    }
    state = {}
    for name, tensor in load_file(WEIGHTS).items():
        if name.startswith("pooler") or name.endswith("position_ids"):
            continue  # not used by sentence embeddings
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        state[name] = tensor
    model = MiniLM()
    model.load_state_dict(state)
    return model.eval()
