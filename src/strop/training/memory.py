"""Less memory for more time, when a step does not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return "can't allocate memory" in text or "out of memory" in text


def checkpoint_blocks(module: nn.Module) -> Callable[[], None] | None:
    """Let the blocks of a module's sequences compute their activations again on the way back.

    Chen et al., *Training deep nets with sublinear memory cost* (2016, arXiv:1604.06174).

    Returns
    -------
    What undoes it; None when the module has no sequence of blocks with weights.
    """
    from torch.utils.checkpoint import checkpoint

    blocks: list[nn.Module] = []
    for parent in module.modules():
        if isinstance(parent, nn.Sequential | nn.ModuleList):
            blocks += [b for b in parent if sum(1 for _ in b.modules()) > 2]
    inner = {id(p) for block in blocks for p in block.modules() if p is not block}
    blocks = [block for block in dict.fromkeys(blocks) if id(block) not in inner]
    if not blocks:
        return None

    def wrap(forward: Callable[..., Any]) -> Callable[..., Any]:
        def again(*args: Any, **kwargs: Any) -> Any:
            return checkpoint(forward, *args, use_reentrant=False, **kwargs)

        return again

    for block in blocks:
        block.forward = wrap(block.forward)

    def undo() -> None:
        for block in blocks:
            del block.forward

    return undo
