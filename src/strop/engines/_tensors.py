"""NumPy arrays as PyTorch tensors and back, for the engines that run on PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np


def as_tensor(array: np.ndarray) -> Any:
    """A tensor over the array's own memory where PyTorch can read it as it lies; else a copy."""
    import torch

    if not array.flags.writeable or not array.flags.c_contiguous:
        array = array.copy()  # torch has no read-only tensors and no negative strides
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def as_array(tensor: Any) -> np.ndarray:
    """A copy: a module may return its input, a buffer, or one tensor under two names."""
    import torch

    if tensor.dtype is torch.bfloat16:
        import ml_dtypes

        bits = tensor.contiguous().cpu().view(torch.uint16).numpy()
        return np.array(bits.view(ml_dtypes.bfloat16))
    return np.array(tensor.detach().cpu().numpy(), order="C")
