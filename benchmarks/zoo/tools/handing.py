"""What every stock tool's script is given and hands back: run by interpreters without strop.

    python TOOL.py MODEL CALIBRATION.npz FOLDER [transformer]

A script writes artefacts below FOLDER and `built.json`: one row a candidate, with what it takes to
load it (engine, artefact, engine options) or one line on why there is none.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np


class Hand:
    """One script's arguments and the rows that it will hand back."""

    def __init__(self, *packages: str) -> None:
        self.model, calibration, self.folder = map(Path, sys.argv[1:4])
        self.transformer = "transformer" in sys.argv[4:]
        with np.load(calibration) as arrays:
            self.calibration: dict[str, np.ndarray] = dict(arrays)
        self._versions = {name: version(name) for name in packages}
        self._rows: list[dict[str, Any]] = []

    def rows(self) -> Iterator[dict[str, np.ndarray]]:
        """The calibration examples one by one, as batches of one."""
        count = len(next(iter(self.calibration.values())))
        for row in range(count):
            yield {name: array[row : row + 1] for name, array in self.calibration.items()}

    def build(
        self,
        name: str,
        make: Callable[[Path], str],
        *,
        engine: str = "onnxruntime",
        options: dict[str, Any] | None = None,
        invariant: bool = True,
    ) -> None:
        """Call `make` with the path to write; it returns a note for the table.

        `invariant` says whether an example's result is the same in any batch: where ranges are
        taken from the batch at hand it is not.
        """
        suffix = ".xml" if engine == "openvino" else ".onnx"
        path = self.folder / name.replace(" ", "-").replace(",", "") / f"model{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        row: dict[str, Any] = {"name": name, "engine": engine, "versions": self._versions}
        started = time.perf_counter()
        try:
            row["note"] = make(path)
        except Exception as error:  # a tool may fail in any way: that is the row
            row["error"] = f"{type(error).__name__}: {_first_line(error)}"
        else:
            row |= {"artifact": str(path), "options": options or {}, "invariant": invariant}
        row["seconds"] = round(time.perf_counter() - started, 1)
        self._rows.append(row)

    def again(self, name: str, like: str, options: dict[str, Any]) -> None:
        """A built artefact once more, under other engine options."""
        for row in list(self._rows):
            if row["name"] == like:
                given = {} if "error" in row else {"options": options, "note": ""}
                self._rows.append(row | given | {"name": name, "seconds": 0.0})

    def close(self) -> None:
        (self.folder / "built.json").write_text(json.dumps(self._rows, indent=1))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else "no message")[:240]
