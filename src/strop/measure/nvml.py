"""The energy counters of NVIDIA's boards, through the driver's own library.

NVML API reference, ``nvmlDeviceGetTotalEnergyConsumption``: millijoules since the driver was
loaded, on Volta and later. Called through ctypes, so that nothing needs to be installed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_LIBRARY = "libnvidia-ml.so.1"
_OK = 0


@dataclass(frozen=True)
class Board:
    """One board's counter; as :class:`strop.measure.rapl.Package` has its fields."""

    name: str
    library: Any
    handle: Any
    wraps_at: int = 2**64
    joules_a_step: float = 1e-3

    def read(self) -> int:
        """The raw counter; OSError where the board does not tell."""
        value = ctypes.c_ulonglong()
        _checked(self.library.nvmlDeviceGetTotalEnergyConsumption(self.handle, ctypes.byref(value)))
        return value.value


def board(
    index: int, *, library: Any = None, environment: Mapping[str, str] = os.environ
) -> Board | None:
    """The board that CUDA calls number `index`; None where it, or its counter, is not there.

    CUDA_VISIBLE_DEVICES is followed. CUDA counts the fastest board first unless
    CUDA_DEVICE_ORDER=PCI_BUS_ID, NVML by the bus: on a machine with several kinds of boards that
    variable must be set for the two to mean the same one.

    Parameters
    ----------
    library
        The driver's library where it is loaded already.
    """
    try:
        library = library or ctypes.CDLL(_LIBRARY)
        _checked(library.nvmlInit_v2())
        handle = ctypes.c_void_p()
        which = _visible(index, environment.get("CUDA_VISIBLE_DEVICES"))
        if isinstance(which, str):
            _checked(library.nvmlDeviceGetHandleByUUID(which.encode(), ctypes.byref(handle)))
        else:
            _checked(library.nvmlDeviceGetHandleByIndex_v2(which, ctypes.byref(handle)))
        found = Board(f"NVML board {which}", library, handle)
        found.read()
    except (OSError, AttributeError):  # no driver, no such board, or an old library
        return None
    return found


def _visible(index: int, listed: str | None) -> int | str:
    if not listed:
        return index
    chosen = [entry.strip() for entry in listed.split(",")]
    entry = chosen[index] if index < len(chosen) else str(index)
    with contextlib.suppress(ValueError):
        return int(entry)
    return entry


def _checked(code: int) -> None:
    if code != _OK:
        raise OSError(f"NVML answered {code}")
