"""What is matched inside two networks: places found automatically, compared without new weights.

Attention transfer: Zagoruyko and Komodakis (2017, arXiv:1612.03928). Relations between examples:
Tung and Mori, *Similarity-preserving knowledge distillation* (2019, arXiv:1907.09682). Features of
equal width directly: Romero et al., *FitNets* (2015, arXiv:1412.6550). Block by block where the
student is the teacher with blocks left out: Jiao et al., *TinyBERT* (2020, arXiv:1909.10351).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from strop.models.module_blocks import Skip
from strop.training.settings import Transfer

_PER_SHAPE = 2
_TINY = 1e-8

Run = Callable[[nn.Module], Any]


def match_layers(teacher: nn.Module, student: nn.Module, run: Run) -> list[tuple[str, str]]:
    """Pairs of submodules whose outputs correspond, in the order in which they run.

    Outputs correspond when all their dimensions agree but the channels (the second of images,
    the last of sequences). For each such shape the last place of both networks is paired, and
    one half way to it where both have several. Where blocks of the teacher were left out, each
    that stayed is to give what the last one left out behind it gave, so that the next one is given
    what it knows.

    Parameters
    ----------
    run
        Calls a module on one small batch.
    """
    places = [_places(module, run) for module in (teacher, student)]
    if blocks := _block_ends(student, places[0], places[1]):
        return [(name, name) for name in blocks]
    pairs: list[tuple[str, str]] = []
    for shape in places[0]:
        first, second = places[0][shape], places[1].get(shape, [])
        count = min(_PER_SHAPE, len(first), len(second))
        for part in range(1, count + 1):
            one = first[round(part * len(first) / count) - 1]
            other = second[round(part * len(second) / count) - 1]
            pairs.append((one, other))
    return list(dict.fromkeys(pairs))


class Taps:
    """Keeps the outputs of some submodules while it is open."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        self.outputs: dict[str, torch.Tensor] = {}
        self._handles = [
            module.get_submodule(name).register_forward_hook(self._hook(name))
            for name in dict.fromkeys(names)
        ]

    def _hook(self, name: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            self.outputs[name] = _tensor_of(output)

        return keep

    def close(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self.outputs.clear()


def transfer_loss(kind: Transfer, teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """The distance between two corresponding activations, a scalar of order one."""
    teacher, student = teacher.float(), student.float()
    if kind == "attention":
        return (_attention(student) - _attention(teacher)).square().sum(1).mean()
    if student.shape == teacher.shape:
        one, other = student.flatten(1), teacher.flatten(1)
        return (functional.normalize(one) - functional.normalize(other)).square().sum(1).mean()
    return (_relations(student) - _relations(teacher)).square().mean() * len(student)


def _attention(features: torch.Tensor) -> torch.Tensor:
    """Energy by place, of length one: float[n, places]."""
    channels = 1 if features.ndim == 4 else -1
    return functional.normalize(features.square().mean(channels).flatten(1))


def _relations(features: torch.Tensor) -> torch.Tensor:
    """Similarity between the examples of a batch, rows of length one: float[n, n]."""
    flat = features.flatten(1)
    return functional.normalize(flat @ flat.T)


def _block_ends(student: nn.Module, *places: Mapping[tuple[int, ...], list[str]]) -> list[str]:
    """Where a run of left-out blocks ends, and what was not followed by one; empty without any."""
    common = set.intersection(*({n for names in found.values() for n in names} for found in places))
    ends: list[str] = []
    for name, sequence in student.named_modules():
        items = [(f"{name}.{key}".lstrip("."), part) for key, part in sequence.named_children()]
        if not any(isinstance(part, Skip) for _, part in items):
            continue
        following = [isinstance(part, Skip) for _, part in items[1:]]
        kept = [
            item
            for (item, _), left_out in zip(items, [*following, False], strict=True)
            if not left_out
        ]
        ends += [item for item in kept if item in common]
    return ends


def _places(module: nn.Module, run: Run) -> dict[tuple[int, ...], list[str]]:
    """Names of submodules by the shape of what they give, less its channels, in running order."""
    found: dict[tuple[int, ...], list[str]] = {}
    handles = []

    def hook(name: str) -> Callable[..., None]:
        def note(part: nn.Module, args: Any, output: Any) -> None:
            tensor = _tensor_of(output)
            if tensor is None or tensor.ndim not in (3, 4) or not tensor.is_floating_point():
                return
            shape = list(tensor.shape)
            del shape[1 if tensor.ndim == 4 else -1]
            if tensor.ndim == 4 and shape[1:] == [1, 1]:
                return  # pooled: the outputs say as much
            names = found.setdefault((tensor.ndim, *shape), [])
            if name not in names:
                names.append(name)

        return note

    for name, part in module.named_modules():
        if name:
            handles.append(part.register_forward_hook(hook(name)))
    try:
        with torch.no_grad():
            run(module)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _tensor_of(output: Any) -> Any:
    if isinstance(output, tuple | list) and output:
        output = output[0]
    return output if isinstance(output, torch.Tensor) else None
