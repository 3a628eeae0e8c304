"""The C interface of a library that AOTInductor made (``aoti_runtime/interface.h`` in PyTorch).

PyTorch's own runner in Python keeps the interpreter's lock while it runs; called like this, the
library runs for several threads at once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from strop.errors import NotApplicable, StropError

_Handles = ctypes.Array[ctypes.c_void_p]


class Runner:
    """A container of `count` instances that share their weights; a call waits for a free one.

    Parameters
    ----------
    device
        ``cpu``, or PyTorch's name of another device (``cuda:0``).

    Raises
    ------
    NotApplicable
        When the library cannot be loaded; the message says why.
    """

    def __init__(self, library: Path, device: str, count: int) -> None:
        import torch  # its libraries are what this one is linked with

        self._handles = torch._C._aoti
        self._container = ctypes.c_void_p()
        try:
            self._library = ctypes.CDLL(str(library))
            self._say = self._library.AOTInductorGetLastError
            self._say.restype = ctypes.c_char_p
            self._check(
                self._library.AOTInductorModelContainerCreateWithDevice(
                    ctypes.byref(self._container),
                    ctypes.c_size_t(count),
                    device.encode(),
                    None,
                )
            )
            outputs = ctypes.c_size_t()
            self._check(
                self._library.AOTInductorModelContainerGetNumOutputs(
                    self._container, ctypes.byref(outputs)
                )
            )
        except (OSError, AttributeError, StropError) as error:
            raise NotApplicable(f"the compiled library cannot be loaded: {error}") from error
        self._outputs = outputs.value

    def run(self, tensors: Sequence[Any]) -> list[Any]:
        """The output tensors for the input tensors, both in the library's order.

        Raises
        ------
        StropError
            When the library reports an error.
        """
        capsules = self._handles.unsafe_alloc_void_ptrs_from_tensors(list(tensors))
        given = (ctypes.c_void_p * len(capsules))(*[_pointer(it, None) for it in capsules])
        found = (ctypes.c_void_p * self._outputs)()
        # The handles of the inputs are the library's from here on, those of the outputs ours.
        self._check(
            self._library.AOTInductorModelContainerRun(
                self._container,
                given,
                ctypes.c_size_t(len(given)),
                found,
                ctypes.c_size_t(self._outputs),
                None,
                None,
            )
        )
        owned = [_capsule(pointer, None, None) for pointer in found]
        tensors_out: list[Any] = self._handles.alloc_tensors_by_stealing_from_void_ptrs(owned)
        return tensors_out

    def close(self) -> None:
        """Free the instances and their weights; the code stays mapped."""
        if self._container:
            self._library.AOTInductorModelContainerDelete(self._container)
            self._container = ctypes.c_void_p()

    def __del__(self) -> None:
        self.close()

    def _check(self, code: int) -> None:
        if code:
            said = self._say()
            text = said.decode(errors="replace").strip() if said else ""
            text = text or f"error {code}"
            raise StropError(f"the compiled library failed: {text.splitlines()[0]}")


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.restype = ctypes.py_object
_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
