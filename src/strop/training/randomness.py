"""The state of torch's random numbers, on every device that a run draws them on."""

from __future__ import annotations

from collections.abc import Mapping

import torch

_CPU, _CUDA = "rng", "rng.cuda"


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """uint8 tensors on the CPU by a name each: dropout on a GPU draws from the GPU's own."""
    states = {_CPU: torch.get_rng_state()}
    if device.type == "cuda":
        states[_CUDA] = torch.cuda.get_rng_state(device)
    return states


def restore_random_state(states: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Go on where `random_state` was asked; other names in `states` are left alone."""
    torch.set_rng_state(states[_CPU])
    if device.type == "cuda" and _CUDA in states:
        torch.cuda.set_rng_state(states[_CUDA], device)
