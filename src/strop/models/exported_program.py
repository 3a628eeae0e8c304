"""Programs of `torch.export` (``.pt2``), opened as modules; imports torch, so import it late."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from strop.errors import MissingExtra, ModelError, TrustError
from strop.models.graph import first_line


def check_trust(path: Path, *, trust: bool) -> None:
    """TrustError unless `trust`: `torch.export.load` may unpickle what the archive holds."""
    if not trust:
        raise TrustError(
            f"'{path.name}' is an exported program, and loading one may run code that it holds",
            hint="pass --trust (trust=True in Python) if you know where it comes from",
        )


def open_program(path: Path) -> Any:
    """The program at `path` as an `nn.Module` with the arguments that it was exported with.

    Sizes that it was exported with stay as they are: a batch is free where its author said so.

    Raises
    ------
    ModelError
        When the file is damaged, or was written by another version of PyTorch that this one does
        not read.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch", extra="torch") from error

    class Program(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
        """An exported program, which knows no training mode and refuses to be asked for one."""

        def __init__(self, program: Any) -> None:
            super().__init__()
            self.program = program
            self.forward = program.forward
            self.training = False

        def train(self, mode: bool = True) -> Program:
            return self

    try:
        return Program(torch.export.load(path).module())
    except Exception as error:  # zip, JSON and schema errors of many kinds
        raise ModelError(
            f"'{path.name}' cannot be read as an exported program: {first_line(error)}",
            hint="write it with torch.export.save, with a version of PyTorch near to this one",
        ) from error
