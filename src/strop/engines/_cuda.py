"""Whether PyTorch can use a CUDA device here."""

from __future__ import annotations

import re

from strop.errors import NotApplicable
from strop.records import Applicability


def usable(device: str) -> Applicability:
    """Whether `device` is the CPU, or a CUDA device (``cuda``, ``cuda:1``) that PyTorch sees.

    It imports torch for anything but the CPU.
    """
    if device == "cpu":
        return Applicability.yes()
    found = re.fullmatch(r"cuda(?::(\d+))?", device)
    if found is None:
        return Applicability.no(f"runs on the CPU and on CUDA devices only, not on '{device}'")
    import torch

    if torch.version.cuda is None:
        return Applicability.no(
            f"PyTorch {torch.__version__} here is built without CUDA, and the device is "
            f"'{device}'; install a build with it (https://pytorch.org/get-started)"
        )
    count = torch.cuda.device_count()
    if int(found[1] or 0) >= count:
        return Applicability.no(f"PyTorch sees {count} CUDA devices here, and not '{device}'")
    return Applicability.yes()


def prepare(device: str) -> None:
    """Make sure of the device, and let it compute in FP32 where FP32 is asked for.

    Raises
    ------
    NotApplicable
        When PyTorch cannot use it here.
    """
    answer = usable(device)
    if not answer:
        raise NotApplicable(answer.reason)
    if device != "cpu":
        import torch

        # Convolutions are in TF32 otherwise, which is no FP32.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
