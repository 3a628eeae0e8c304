"""Files and folders that hold a PyTorch module: what is not ``file.py:callable``.

Each is opened by its own file; what comes out is an `nn.Module` like any other, so that every
later step, the eager baseline included, needs to know nothing of where it came from.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from strop.errors import ModelError

PROCESSOR = "processor"
"""Folder in a model's directory for the tokeniser or image processor that came with it."""


def format_of(path: Path) -> str | None:
    """The format of a file or folder that holds a module; None where it holds none that is known.

    >>> format_of(Path("net.pt2")), format_of(Path("net.onnx"))
    ('torch.export', None)
    """
    if path.suffix.lower() == ".pt2":
        return "torch.export"
    if path.suffix.lower() == ".keras":
        return "keras"
    if (path / "config.json").is_file():
        return "transformers"
    return None


def check_trust(path: Path, *, trust: bool) -> None:
    """TrustError when reading what lies at `path` may run code, and `trust` is False."""
    kind = format_of(path)
    if kind == "torch.export":
        from strop.models import exported_program

        exported_program.check_trust(path, trust=trust)
    elif kind == "transformers":
        from strop.models import hugging_face

        hugging_face.check_trust(path, trust=trust)


def open_file(path: Path) -> Any:
    """The `nn.Module` that a file or folder holds.

    Whoever calls it has made sure that the user trusts what is there (:func:`check_trust`).

    Raises
    ------
    ModelError
        When it cannot be read.
    MissingExtra
        When the package that reads it is not installed.
    """
    kind = format_of(path)
    if kind == "torch.export":
        from strop.models.exported_program import open_program

        return open_program(path)
    if kind == "keras":
        from strop.models.keras_file import open_keras

        return open_keras(path)
    if kind == "transformers":
        from strop.models.hugging_face import open_folder

        return open_folder(path)
    raise ModelError(f"'{path}' holds no module", hint="check the path")


def copy_processor(path: Path, workdir: Path) -> None:
    """Copy the tokeniser or image processor that lies beside a module, if there is one."""
    if format_of(path) != "transformers":
        return
    from strop.models.hugging_face import processor_files

    for file in processor_files(path):
        (workdir / PROCESSOR).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, workdir / PROCESSOR / file.name)
