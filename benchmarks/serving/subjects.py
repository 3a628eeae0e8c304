"""The models of the zoo that are served, and what is asked of them."""

from __future__ import annotations

import functools
import runpy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import requests_of

_ROWS = 256  # rows of the data that are sent, again and again


@dataclass(frozen=True)
class Subject:
    """One model.

    Attributes
    ----------
    batch
        Rows of the largest batch.
    slo
        Seconds, for the step that overloads it.
    path
        Of the bundle, or of the ONNX file where there is none.
    """

    name: str
    batch: int
    slo: float
    path: Path
    data: Path

    def rows(self, count: int, start: int = 0) -> dict[str, np.ndarray]:
        """Real rows as the model takes them."""
        found = _load(self.path, self.data)
        index = (np.arange(count) + start) % len(next(iter(found.values())))
        return {name: np.ascontiguousarray(array[index]) for name, array in found.items()}

    def requests(self, rows: int, many: int) -> list[bytes]:
        """Different requests of so many rows, as binary tensors."""
        path = f"/v2/models/{self.name}/infer"
        return [
            requests_of.as_binary(path, self.rows(rows, number * rows)) for number in range(many)
        ]


CHOICES = {"fashion-mnist": (32, 0.02), "efficientnet-lite0": (8, 0.1), "minilm": (8, 0.1)}


def find(name: str, zoo: Path, bundles: Path | None) -> Subject | None:
    """A subject from what `examples/zoo/fetch.py` and `benchmarks/zoo/run.py` wrote."""
    batch, slo = CHOICES[name]
    path = zoo / name / "model.onnx"
    if bundles is not None and (bundles / name / "strop" / "bundle").is_dir():
        path = bundles / name / "strop" / "bundle"
    data = zoo / name / "data.npz"
    if not path.exists() or not data.exists():
        return None
    return Subject(name, batch, slo, path.resolve(), data.resolve())


def _input_names(path: Path) -> list[str]:
    if path.is_dir():
        from strop.bundle import read_manifest

        return [entry.name for entry in read_manifest(path).signature.inputs]
    import onnx

    return [entry.name for entry in onnx.load(path, load_external_data=False).graph.input]


@functools.cache
def _load(path: Path, data: Path) -> dict[str, np.ndarray]:
    names = _input_names(path)
    with np.load(data) as arrays:
        found = {name: arrays[name][:_ROWS] for name in names}
    preprocess = data.with_name("preprocess.py")
    if preprocess.exists():
        found = runpy.run_path(str(preprocess))["fn"](found)
    return found
