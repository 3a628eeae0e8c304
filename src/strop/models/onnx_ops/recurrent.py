"""LSTM and GRU on `nn.LSTM` and `nn.GRU`, whose weights are stacked in another order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from strop.models.onnx_ops.builder import Builder, Call, Constant, Value, as_tensor, operator

_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2)}
"""PyTorch's gates (LSTM: i f g o; GRU: r z n) as places in ONNX's order (i o f c; z r h)."""
_KINDS = {"LSTM": nn.LSTM, "GRU": nn.GRU}


class Recurrent(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """One recurrent layer with ONNX's shapes.

    It takes [time, batch, inputs] and returns every state as [time, directions, batch, hidden]
    and the last ones as [directions, batch, hidden].
    """

    def __init__(self, layer: nn.RNNBase, backwards: bool) -> None:
        super().__init__()
        self.layer = layer
        self.backwards = backwards

    def forward(self, x: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self.backwards:
            x = x.flip(0)
        given = None if not states else states[0] if len(states) == 1 else states
        every, last = self.layer(x, given)
        if self.backwards:
            every = every.flip(0)
        directions = 2 if self.layer.bidirectional else 1
        every = every.unflatten(2, (directions, -1)).transpose(1, 2)
        return (every, *last) if isinstance(last, tuple) else (every, last)


@operator("LSTM", "GRU")
def recurrent(builder: Builder, call: Call) -> Sequence[Value]:
    weight, recurrence, bias = (call.input(place) for place in (1, 2, 3))
    if not isinstance(weight, Constant) or not isinstance(recurrence, Constant):
        raise call.fails("has weights that are not constant")
    if bias is not None and not isinstance(bias, Constant):
        raise call.fails("has weights that are not constant")
    if call.input(4) is not None or (call.kind == "LSTM" and call.input(7) is not None):
        raise call.fails("takes the lengths of sequences, or peepholes")
    refused = {"activations", "clip", "input_forget", "layout"} & {
        name for name, value in call.attributes.items() if value
    }
    if refused - {"activations"} or ("activations" in refused and not _usual(call)):
        raise call.fails(f"has the attributes {', '.join(sorted(refused))}")
    if call.kind == "GRU" and not call.attributes.get("linear_before_reset", 0):
        raise call.fails("resets before the product, which PyTorch's does not")
    states = [call.input(5), call.input(6)][: 2 if call.kind == "LSTM" else 1]
    if None in states:
        if any(state is not None for state in states):
            raise call.fails("is given one of its two states")
        states = []
    layer = _layer(call, weight, recurrence, bias)
    result = builder.layer(
        call, lambda: layer, *(builder.tensor(value) for value in (call.inputs[0], *states))
    )
    return [builder.call(_pick, result, place) for place in range(len(call.output_names))]


def _layer(call: Call, weight: Constant, recurrence: Constant, bias: Constant | None) -> nn.Module:
    directions, rows, inputs = weight.array.shape
    hidden = recurrence.array.shape[2]
    layer = _KINDS[call.kind](
        inputs, hidden, bias=bias is not None, bidirectional=directions == 2, device="meta"
    )
    for direction, suffix in enumerate(("", "_reverse")[:directions]):
        held = {
            f"weight_ih_l0{suffix}": weight.array[direction],
            f"weight_hh_l0{suffix}": recurrence.array[direction],
        }
        if bias is not None:
            held[f"bias_ih_l0{suffix}"] = bias.array[direction, :rows]
            held[f"bias_hh_l0{suffix}"] = bias.array[direction, rows:]
        for name, array in held.items():
            parts = np.split(array, len(_GATES[call.kind]))
            ordered = np.concatenate([parts[place] for place in _GATES[call.kind]])
            setattr(layer, name, nn.Parameter(as_tensor(ordered)))
    backwards = call.attributes.get("direction", b"forward") == b"reverse"
    return Recurrent(layer, backwards).eval()


def _usual(call: Call) -> bool:
    usual = [b"sigmoid", b"tanh", b"tanh"] if call.kind == "LSTM" else [b"sigmoid", b"tanh"]
    given = [bytes(name).lower() for name in call.attributes["activations"]]
    return given in (usual, usual * 2)


def _pick(results: Sequence[torch.Tensor], place: int) -> torch.Tensor:
    return results[place]
