"""Attention heads: where a module splits channels into them, and what it calls their number.

Imports torch, so import it late.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

HEAD_COUNTS = ("num_heads", "n_heads", "heads", "n_head", "nhead", "num_attention_heads")
"""What modules call the number of their attention heads."""


def head_counts(module: nn.Module, root: str) -> list[str]:
    """Attributes of the modules around the layer `root` that count heads, the nearest first."""
    found = []
    path = root
    while path:
        path = path.rpartition(".")[0]
        owner = module.get_submodule(path) if path else module
        for name in HEAD_COUNTS:
            if isinstance(getattr(owner, name, None), int):
                found.append(f"{path}.{name}" if path else name)
    return found


class HeadWatch(TorchFunctionMode):  # type: ignore[misc]  # torch is untyped here
    """Inside, notes where channels, the last dimension, are split into heads.

    Attributes
    ----------
    seen
        Pairs of channels and heads.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, int]] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in ("view", "reshape", "unflatten") and args:
            before, after = args[0], result
            if isinstance(before, Tensor) and isinstance(after, Tensor) and after.ndim > 2:
                heads, size = after.shape[-2:]
                if before.ndim >= 2 and before.shape[-1] == heads * size and size > 1:
                    self.seen.add((heads * size, heads))
        return result


def channels_of_heads(channels: int, count: int, parts: int) -> tuple[tuple[int, ...], ...]:
    """The channels of each head, where each of `parts` projections holds them one by one."""
    size = channels // (count * parts)
    return tuple(
        tuple(part * count * size + head * size + i for part in range(parts) for i in range(size))
        for head in range(count)
    )
