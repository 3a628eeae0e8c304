"""Checkpoints of a training run: safetensors and JSON, whole or absent whatever happens."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

_FOLDER, _ASIDE, _OLD = "checkpoint", "checkpoint.new", "checkpoint.old"


@dataclass
class Progress:
    """Where a run stands, as plain data.

    Attributes
    ----------
    identity
        What the run is of; a checkpoint of another identity is ignored.
    step, total
        Steps done, and steps planned.
    since, at
        The step at which the steps were last planned, and where in the schedule that was, in
        [0, 1].
    cached
        Of what a step takes that waits for the teacher, the share that it takes once its outputs
        are kept.
    lowest
        Lowest mean loss between two judgements.
    batch, judged
        Examples a step, and examples that it is judged by.
    every, gap
        Steps between judgements, and the fewest that judging leaves most of the time to.
    shortened
        Whether what was left has been shortened, because judgements no longer improved.
    chosen
        How the examples were chosen that are trained on: ``all``, ``coreset`` or ``random``.
    losses
        Of the steps since the last judgement.
    """

    identity: dict[str, Any]
    step: int = 0
    total: int = 0
    since: int = 0
    at: float = 0.0
    cached: float = 1.0
    seconds: float = 0.0
    lr: float = 0.0
    precision: str = "float32"
    before: float = 0.0
    best: float = 0.0
    lowest: float = 1e30
    stale: int = 0
    batch: int = 0
    judged: int = 0
    every: int = 1
    gap: int = 1
    shortened: bool = False
    chosen: str = "all"
    losses: list[float] = field(default_factory=list)
    history: list[list[float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def save(
    folder: Path,
    progress: Progress,
    student: Mapping[str, torch.Tensor],
    best: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    more: Mapping[str, torch.Tensor],
) -> None:
    """Replace the checkpoint in `folder`; `more` are tensors that keep their names."""
    from safetensors.torch import save_file

    aside = folder / _ASIDE
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    tensors = dict(more)
    tensors |= {f"student.{name}": value for name, value in student.items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    save_file(plain, aside / "tensors.safetensors")
    (aside / "progress.json").write_text(json.dumps(vars(progress)))
    for file in aside.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    old, current = folder / _OLD, folder / _FOLDER
    shutil.rmtree(old, ignore_errors=True)
    if current.exists():
        current.rename(old)
    aside.rename(current)
    shutil.rmtree(old, ignore_errors=True)


def load(
    folder: Path, identity: Mapping[str, Any]
) -> tuple[Progress, dict[str, torch.Tensor]] | None:
    """The checkpoint in `folder` if it is of `identity`; its tensors by their names in `save`."""
    from safetensors.torch import load_file

    for name in (_FOLDER, _OLD):  # a kill between two renames leaves the old one
        try:
            progress = Progress(**json.loads((folder / name / "progress.json").read_text()))
            tensors = load_file(folder / name / "tensors.safetensors")
        except Exception:  # absent, of another version or damaged: safetensors' errors are its own
            continue
        if progress.identity == json.loads(json.dumps(identity)):
            return progress, tensors
    return None


def part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with `prefix` and a dot, without it."""
    start = f"{prefix}."
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Give an optimizer of the same parameters back the state that `save` wrote."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in part(tensors, "optimizer").items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    document = optimizer.state_dict()
    document["state"] = state
    optimizer.load_state_dict(document)
