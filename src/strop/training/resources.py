"""Where a run computes: the device, and how many threads of torch it has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from strop.measure.machine import granted_cpus
from strop.training.settings import TrainSettings

_WORTH_THREADS = 50_000_000  # products a step


def device_of(settings: TrainSettings) -> torch.device:
    """The device that was asked for; a GPU, where PyTorch finds one, if none was."""
    if settings.device != "auto":
        return torch.device(settings.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def useful_threads(settings: TrainSettings, *modules: nn.Module | None) -> int:
    """All granted cores, but one where a step is so short that threads would wait for threads."""
    given = [module for module in modules if module is not None]
    convolves = any(isinstance(p, nn.modules.conv._ConvNd) for m in given for p in m.modules())
    weights = sum(p.numel() for m in given for p in m.parameters() if p.ndim > 1)
    if not convolves and weights * settings.batch < _WORTH_THREADS:
        return 1
    if settings.threads is not None:
        return settings.threads
    return len(granted_cpus())


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads of torch: a search may have told it to use as few as inference will."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
