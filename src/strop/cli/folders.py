"""Output folders where a bundle is meant: `strop optimize` prints both paths."""

from __future__ import annotations

from pathlib import Path


def bundle_in(given: Path) -> Path:
    """The bundle of an output folder; what was given where it is none.

    Examples
    --------
    >>> bundle_in(Path("model.onnx"))
    PosixPath('model.onnx')
    """
    inner = given / "bundle"
    if not (given / "manifest.json").is_file() and (inner / "manifest.json").is_file():
        return inner
    return given
