"""The teacher's outputs by row, computed once and kept on disk within a bound."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

Tensors = Mapping[str, torch.Tensor]

_SHARE_OF_DISK = 0.25
"""Of what is free, at most: checkpoints and models need room as well."""


class TeacherOutputs:
    """Answers for rows of one dataset; what is not yet known is computed and remembered.

    One ``.npy`` an output, mapped into memory, and one of which rows are known, so that an
    interrupted run, or another student of the same teacher, goes on with what is there.

    Parameters
    ----------
    folder
        Made when missing; the caller names it after teacher and data.
    rows
        How many rows the dataset has.
    limit
        Bytes at most, and a quarter of what the disk has free: rows beyond are computed every
        time. The first rows are kept.
    run
        The teacher on a batch of inputs, without gradients.
    """

    def __init__(
        self, folder: Path, rows: int, limit: int, run: Callable[[Tensors], dict[str, torch.Tensor]]
    ) -> None:
        self._folder = folder
        self._rows = rows
        self._limit = limit
        self._run = run
        self._files: dict[str, np.memmap[tuple[int, ...], np.dtype[np.float32]]] = {}
        self._known = np.zeros(rows, bool)
        self._kept = 0
        self.computed = 0
        self._open()

    def __call__(self, rows: np.ndarray, inputs: Tensors) -> dict[str, torch.Tensor]:
        """The teacher's outputs for the examples `rows`, whose inputs are `inputs`."""
        if self.knows(rows):
            device = next(iter(inputs.values())).device
            return {
                name: torch.from_numpy(np.array(file[rows])).to(device)
                for name, file in self._files.items()
            }
        outputs = self._run(inputs)
        self.computed += len(rows)
        self._keep(rows, outputs)
        return outputs

    def knows(self, rows: np.ndarray) -> bool:
        """Whether the outputs for all of `rows` are kept."""
        return bool(self._files and self._known[rows].all())

    def flush(self) -> None:
        """Make what is known survive a kill: values first, then which rows they are."""
        for file in self._files.values():
            file.flush()
        if self._files:
            aside = self._folder / "known.tmp.npy"
            np.save(aside, self._known)
            aside.replace(self._folder / "known.npy")

    def _keep(self, rows: np.ndarray, outputs: Tensors) -> None:
        plain = {name: value.detach().float().cpu().numpy() for name, value in outputs.items()}
        if not self._files and not self._create(plain):
            return
        fits = rows < self._kept
        for name, values in plain.items():
            self._files[name][rows[fits]] = values[fits]
        self._known[rows[fits]] = True

    def _create(self, outputs: Mapping[str, np.ndarray]) -> bool:
        if any(not np.issubdtype(value.dtype, np.floating) for value in outputs.values()):
            return False
        size = sum(value[0].nbytes for value in outputs.values())
        self._folder.mkdir(parents=True, exist_ok=True)
        # Writing to a mapped file on a full disk would kill the process.
        room = int(_SHARE_OF_DISK * shutil.disk_usage(self._folder).free)
        self._kept = min(self._rows, min(self._limit, room) // max(size, 1))
        if not self._kept:
            return False
        shapes = {name: [self._kept, *value.shape[1:]] for name, value in outputs.items()}
        for index, (name, shape) in enumerate(shapes.items()):
            self._files[name] = np.lib.format.open_memmap(
                self._folder / f"{index}.npy", mode="w+", dtype=np.float32, shape=tuple(shape)
            )
        (self._folder / "outputs.json").write_text(json.dumps(shapes))
        return True

    def _open(self) -> None:
        try:
            shapes = json.loads((self._folder / "outputs.json").read_text())
            known = np.load(self._folder / "known.npy", allow_pickle=False)
            files = {
                name: np.load(self._folder / f"{index}.npy", mmap_mode="r+", allow_pickle=False)
                for index, name in enumerate(shapes)
            }
        except (OSError, ValueError):
            return
        if known.shape != (self._rows,) or any(
            list(file.shape) != shapes[name] for name, file in files.items()
        ):
            return
        self._files, self._known = files, known
        self._kept = min(len(file) for file in files.values())
