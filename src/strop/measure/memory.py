"""Three numbers, named: peak resident memory, the weights' bytes, the file's bytes."""

from __future__ import annotations

import glob
from pathlib import Path

from strop.errors import ModelError
from strop.measure.conditions import PLAIN, Conditions
from strop.measure.subject import Inputs, Subject
from strop.records import Memory, SessionSpec

_CALLS = 3  # arenas reach their size within the first calls


def peak(
    spec: SessionSpec,
    inputs: Inputs,
    payload: bytes | None = None,
    *,
    conditions: Conditions = PLAIN,
) -> int:
    """Bytes that loading and running the session adds to a process, at its peak.

    The largest resident set (``VmHWM``) of a fresh process that loads the session and runs it
    three times, minus that of a process that has only imported numpy and the few modules of strop
    that every timed process imports: engine libraries count, strop does not.

    Raises
    ------
    ChildError
        When the session fails, dies, hangs or outgrows its memory limit.
    """

    def fresh() -> Subject:
        return Subject(
            "memory",
            spec,
            inputs,
            payload=payload,
            conditions=conditions,
        )

    with fresh() as bare:
        bare.idle()
        baseline = bare.peak_rss()
    with fresh() as subject:
        subject.load()
        subject.run(_CALLS)
        return max(subject.peak_rss() - baseline, 0)


def footprint(artifact: Path, peak: int | None = None) -> Memory:
    """The record of an artefact on disk, with a peak if one was measured."""
    return Memory(peak=peak, weights=weights_bytes(artifact), file=file_bytes(artifact))


def file_bytes(artifact: Path) -> int:
    """Bytes on disk of an artefact: a folder, or its main file with the files that belong to it.

    To ``model.xml`` belongs ``model.bin``, to ``model.onnx`` ``model.onnx.data``: whatever starts
    with the main file's name up to its suffix and a dot.
    """
    return sum(file.stat().st_size for file in _files(artifact))


def weights_bytes(artifact: Path) -> int | None:
    """Bytes of the weights in an ONNX or OpenVINO artefact; None where they cannot be told.

    ONNX: the initialisers and constants of the graph and its subgraphs, by shape and type.
    OpenVINO: the ``.bin`` file, which holds nothing else.
    """
    files = _files(artifact)
    binary = [file for file in files if file.suffix == ".bin" and file.with_suffix(".xml") in files]
    if binary:
        return sum(file.stat().st_size for file in binary)
    models = [file for file in files if file.suffix == ".onnx"]
    if len(models) != 1:
        return None
    import onnx

    from strop.models.onnx_file import weight_bytes

    try:
        return weight_bytes(onnx.load(models[0], load_external_data=False))
    except ModelError:  # of a type that ONNX does not know
        return None


def _files(artifact: Path) -> list[Path]:
    if artifact.is_dir():
        return sorted(file for file in artifact.rglob("*") if file.is_file())
    return sorted(artifact.parent.glob(f"{glob.escape(artifact.stem)}.*"))
