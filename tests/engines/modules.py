"""The networks of `strop.testing.graphs` as PyTorch modules; named by ``modules.py:linear`` …"""

import torch

from strop.testing import graphs


class Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        constants = graphs.linear().constants
        self.w = torch.nn.Parameter(torch.tensor(constants["w"]))
        self.b = torch.nn.Parameter(torch.tensor(constants["b"]))

    def forward(self, **inputs):
        return {"logits:0": torch.relu(inputs["input.1"] @ self.w + self.b)}


class Several(torch.nn.Module):
    def forward(self, x, ids, keep):
        return x.sum(dim=1, keepdim=True), ids + ids, x > 0


class Passthrough(torch.nn.Module):
    def forward(self, x):
        return {"clipped": torch.relu(x), "same": x}


class Half(torch.nn.Module):
    def forward(self, x):
        return x * 0.5


class Counter(torch.nn.Module):
    """Returns its own buffer, and what it is called with decides whether it fails."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        if x.shape[0] == 0:
            raise ValueError("an empty batch makes no sense to this module")
        return self.calls


class InPlace(torch.nn.Module):
    """Writes into its input, as an activation in place at the front of a network does."""

    def forward(self, x):
        return torch.relu_(x)


class Running(torch.nn.Module):
    """Gives its input less the mean of all that it has ever seen."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x):
        self.seen += x.sum(dim=0)
        return x - self.seen
