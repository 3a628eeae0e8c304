"""What is known of a library that AOTInductor made, and whether it fits this machine."""

from __future__ import annotations

import functools
import json
import platform
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from strop.engines._base import Arrays
from strop.errors import InputError, NotApplicable

LIBRARY = "model.so"
FACTS = "model.json"
_SCHEMA = 1


@dataclass(frozen=True)
class Features:
    """What machine code may use here.

    Attributes
    ----------
    machine
        The architecture: ``x86_64``, ``aarch64`` …
    isa
        Instruction sets as `torch.cpu.get_capabilities` calls them, sorted.
    """

    machine: str
    isa: tuple[str, ...]


@dataclass(frozen=True)
class Library:
    """What lies beside the library as ``model.json``.

    Attributes
    ----------
    device
        What it was compiled for: ``cpu``, ``cuda`` …
    torch
        The release whose libraries it calls, as ``2.13``.
    platform, machine, isa
        Where it was compiled: its code may use whatever that CPU has.
    equal
        Dimensions that must be equal beyond what the signature says, as two pairs of input and
        axis.
    limits
        Bounds of dimensions beyond what the signature says: input, axis, least, most or None.
    """

    device: str
    torch: str
    platform: str
    machine: str
    isa: tuple[str, ...]
    equal: tuple[tuple[str, int, str, int], ...] = ()
    limits: tuple[tuple[str, int, int, int | None], ...] = ()

    @classmethod
    def read(cls, library: Path) -> Library:
        """The facts beside `library`.

        Raises
        ------
        InputError
            When they are missing or damaged.
        """
        path = library.with_name(FACTS)
        try:
            values: dict[str, Any] = json.loads(path.read_bytes())
            if values.pop("schema") != _SCHEMA:
                raise ValueError("it is of another schema")
            for name in ("isa", "equal", "limits"):
                values[name] = tuple(
                    tuple(item) if isinstance(item, list) else item for item in values[name]
                )
            return cls(**{field.name: values[field.name] for field in fields(cls)})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"'{FACTS}' beside the compiled library cannot be read: {error}",
                hint="build the model again",
            ) from error

    def write(self, folder: Path) -> None:
        """Write ``model.json`` to `folder`."""
        text = json.dumps({"schema": _SCHEMA, **asdict(self)}, indent=1, sort_keys=True)
        (folder / FACTS).write_text(text + "\n", encoding="utf-8")

    def check(self, device: str) -> None:
        """Refuse to load it where its machine code may not run.

        Raises
        ------
        NotApplicable
            Names what it was compiled for and what is here.
        """
        import torch

        own = features()
        wrong = ""
        if (self.platform, self.machine) != (sys.platform, own.machine):
            wrong = (
                f"{self.platform} on {self.machine}, and this is {sys.platform} on {own.machine}"
            )
        elif lacking := sorted(set(self.isa) - set(own.isa)):
            wrong = f"a CPU with {', '.join(lacking)}, which this one lacks"
        elif self.torch != release(torch.__version__):
            wrong = f"PyTorch {self.torch}, and this is {torch.__version__}"
        elif self.device.partition(":")[0] != device.partition(":")[0]:
            wrong = f"the device '{self.device}', and it shall run on '{device}'"
        if wrong:
            raise NotApplicable(f"the library was compiled for {wrong}: build the model again")

    def check_shapes(self, arrays: Arrays) -> None:
        """Refuse shapes that the library would take without a word and read beyond.

        Raises
        ------
        InputError
            Names the input.
        """
        for name, axis, low, high in self.limits:
            length = _shape(arrays, name)[axis]
            if length < low or (high is not None and length > high):
                most = "more" if high is None else str(high)
                raise InputError(
                    f"dimension {axis} of input '{name}' is {length}, but the compiled model takes "
                    f"{low} to {most}"
                )
        for one, here, other, there in self.equal:
            lengths = _shape(arrays, one)[here], _shape(arrays, other)[there]
            if lengths[0] != lengths[1]:
                raise InputError(
                    f"dimension {there} of input '{other}' is {lengths[1]}, but dimension {here} "
                    f"of '{one}' is {lengths[0]}",
                    hint="the compiled model takes them equal",
                )


@functools.cache
def features() -> Features:
    """This machine's architecture and instruction sets."""
    import torch

    found = torch.cpu.get_capabilities()
    isa = sorted(name for name, has in found.items() if has is True)
    return Features(str(found.get("architecture", platform.machine())), tuple(isa))


def release(version: str) -> str:
    """Major and minor of a version.

    Examples
    --------
    >>> release("2.13.0+cpu")
    '2.13'
    """
    return ".".join(version.split(".")[:2])


def _shape(arrays: Arrays, name: str) -> tuple[int, ...]:
    array: np.ndarray = arrays[name]
    return array.shape
