"""Which of the training examples a run learns from, by what its time pays for."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import numpy as np
import torch

from strop.training.coreset import HARDEST, choose, hardness_of
from strop.training.loader import Loader, full_batches
from strop.training.objective import Objective
from strop.training.settings import TrainSettings

REPEATS = 1.0
"""Passes over a coreset for which its size is chosen."""
_WORTH_CHOOSING = 1.5  # times as many examples to choose from
_SCORING_SHARE = 0.1  # of the time that is left


def select(
    rows: np.ndarray,
    visits: int,
    *,
    batch: int,
    objective: Objective,
    loader: Loader,
    settings: TrainSettings,
    seed: int,
    seconds: float | None,
) -> tuple[np.ndarray, str]:
    """The rows to train on, sorted, and how they were chosen (``all``, ``coreset``, ``random``).

    Parameters
    ----------
    visits
        How many examples, repeated ones counted again, there is time for.
    seconds
        What is left of the time; a tenth of it at most goes into choosing, over as many examples
        as the teacher can see in it. None without a limit.
    """
    wanted = settings.examples
    count = max(int(visits / REPEATS), batch)
    if wanted == "all" or count >= len(rows) or (wanted == "auto" and visits >= len(rows)):
        return rows, "all"
    shuffled = np.random.default_rng([seed, 13]).permutation(rows)
    if wanted == "random":
        return np.sort(shuffled[:count]), "random"
    if objective.teaches:
        # In this order, whose batches the teacher has seen whole or not at all.
        pool = shuffled[: _affordable(shuffled, batch, objective, seconds)]
        if len(pool) > _WORTH_CHOOSING * count:
            scores = hardness_of(_answers(pool, batch, objective, loader), objective.kinds)
            hardest = HARDEST if objective.labelled else 0.0
            return np.sort(pool[choose(scores, count, seed=seed, hardest=hardest)]), "coreset"
    return rows, "all"


def _affordable(rows: np.ndarray, batch: int, objective: Objective, seconds: float | None) -> int:
    """How many of `rows`, from the first, the teacher can see in its share of the time.

    What it has seen before, for another student perhaps, costs nothing.
    """
    if seconds is None:
        return len(rows)
    parts = [part for part, _ in full_batches(rows, batch)]
    unseen = [number for number, part in enumerate(parts) if not objective.cache.knows(part)]
    took = 0.0
    for number in unseen[:2]:  # the first call warms up what is compiled or cached
        began = time.monotonic()
        objective.answers(parts[number])
        took = time.monotonic() - began
    paid = int(_SCORING_SHARE * seconds / max(took, 1e-6))
    return unseen[paid] * batch if paid < len(unseen) else len(rows)


def _answers(
    rows: np.ndarray, batch: int, objective: Objective, loader: Loader
) -> Iterator[tuple[Mapping[str, torch.Tensor], torch.Tensor | None]]:
    """The teacher's outputs, which are kept for the training, and the labels if they are used."""
    for padded, count in full_batches(rows, batch):
        part = loader.read(padded)
        outputs = objective.cache(padded, part.inputs)
        targets = part.targets if objective.labelled else None
        yield (
            {name: value[:count] for name, value in outputs.items()},
            None if targets is None else targets[:count],
        )
