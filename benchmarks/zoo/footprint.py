"""Memory and size of every candidate of one model, each in a fresh process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from candidates import EAGER, Candidate
from entries import Entry
from timing import inputs_of

from strop.errors import StropError
from strop.measure.memory import file_bytes, peak


def footprints(entry: Entry, zoo: Path, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """By candidate: ``peak`` and ``file`` in bytes, or ``error``.

    ``peak`` is what loading and running the model at the first batch size adds to a process, its
    engine's libraries among it; ``file`` the bytes of the model's files, None for the torch
    module, which is code and weights that may lie anywhere.
    """
    inputs = inputs_of(entry, zoo, entry.batches[0])
    found: dict[str, Any] = {}
    for candidate in candidates:
        if candidate.spec is None:
            continue
        print(f"{entry.name}: memory of {candidate.name}", flush=True)
        artifact = Path(candidate.spec.artifact)
        size = None if candidate.name == EAGER else file_bytes(artifact)
        try:
            found[candidate.name] = {"peak": peak(candidate.spec, inputs), "file": size}
        except StropError as error:
            found[candidate.name] = {"error": _first_line(error, artifact)}
    return found


def _first_line(error: Exception, artifact: Path) -> str:
    """What went wrong, without the folder that the file lies in on this machine."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[0] if lines else "not measured"
    return line.replace(f"{artifact.parent}/", "")[:240]
