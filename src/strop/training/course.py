"""What one training run is made of: a student, what it learns from, and what judges it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from strop.data import Dataset
from strop.errors import NotApplicable
from strop.models.module_form import ModuleForm
from strop.training.checkpoint import Progress
from strop.training.clock import Clock
from strop.training.judge import Judge
from strop.training.loader import Epochs, Loader, hold_out
from strop.training.objective import Loss, Objective
from strop.training.resources import device_of
from strop.training.settings import TrainSettings
from strop.training.stepper import Emit, Stepper


@dataclass(frozen=True)
class Pace:
    """Seconds of a step: of the first epoch, which may wait for the teacher, and of the others."""

    first: float
    later: float


LEAST_JUDGED = 100
"""Examples below which those that were given to judge by say too little."""
_JUDGED_ROWS = 2000


class Course:
    """The parts of a run that its plan chooses and its loop uses.

    Parameters
    ----------
    form, teacher, data, settings, workdir, seed, emit, after_step, loss, judge, metric
        As in `strop.training.trainer.train`.

    Attributes
    ----------
    progress
        Where the run stands; a checkpoint's takes its place.
    epochs
        Which examples each step takes.
    given
        How many examples there are to train on; those that are chosen may be fewer.
    most_judged
        How many there are to judge by.
    judged_on
        ``search``, ``held out``, or ``trained on`` where there is nothing to hold out.
    """

    def __init__(
        self,
        student: nn.Module,
        *,
        form: ModuleForm,
        teacher: nn.Module | None,
        data: Dataset,
        settings: TrainSettings,
        workdir: Path,
        deadline: float | None,
        seed: int,
        emit: Emit,
        after_step: Callable[[nn.Module], None] | None,
        loss: Loss | None,
        judge: Dataset | None,
        metric: str,
    ) -> None:
        self.clock = Clock(settings.seconds, deadline)
        self.device = device_of(settings)
        self.student, self.settings = student, settings
        self.seed, self.emit = seed, emit
        self._data, self._metric = data, metric
        if judge is not None and len(judge) >= LEAST_JUDGED:
            self._judging, self.judged_on = judge, "search"
            rows = np.arange(len(data))
            self._to_judge = _some(np.arange(len(judge)), _JUDGED_ROWS, seed)
        else:
            self._judging = data
            rows, self._to_judge = hold_out(data, settings.held_out, seed, _JUDGED_ROWS)
            apart = not np.isin(self._to_judge, rows).any()
            self.judged_on = "held out" if apart else "trained on"
        if settings.batch < 2:
            raise NotApplicable(
                "the model takes one example at a time, and training needs more: export it with a "
                "free batch dimension"
            )
        self.epochs = Epochs(rows, min(settings.batch, len(rows)), seed)
        # Kept apart: steps may get smaller, and a resumed run is to be judged as before.
        self._judged_at_once = self.epochs.batch
        if self.epochs.batch < 2:
            raise NotApplicable(f"{len(data)} training examples are too few to train on")
        self.given = len(rows)
        self.loader = Loader(data, self.device, augment=settings.augment, seed=seed)
        if teacher is not None:
            teacher = teacher.to(self.device).eval()
        student.to(self.device)
        self.objective = Objective(form, teacher, data, self.loader, settings, workdir, loss)
        self.stepper = Stepper(
            student, self.objective, self.loader, settings, self.device, emit, after_step
        )
        shapes = [[n, list(p.shape)] for n, p in student.named_parameters()]
        identity = {**settings.identity(), "seed": seed, "data": data.digest, "student": shapes}
        self.progress = Progress(identity | {"judge": self._judging.digest, "metric": metric})
        self._quality: Judge

    def close(self) -> None:
        """Leave the student as a caller expects it, whatever happened."""
        self.objective.close()
        self.objective.flush()
        self.stepper.close()

    @property
    def most_judged(self) -> int:
        return len(self._to_judge)

    @property
    def quality(self) -> str:
        """What :meth:`judge` measures."""
        return self._quality.name

    def judge_by(self, count: int) -> None:
        """Judge by so many of the examples that there are to judge by."""
        rows = _some(self._to_judge, count, self.seed)
        same = self._judging is self._data
        loader = self.loader if same else Loader(self._judging, self.device)
        self._quality = self.objective.judge(
            self._judging, rows, loader, batch=self._judged_at_once, metric=self._metric
        )
        self.progress.judged = len(rows)

    def judge(self) -> float:
        """The quality of the student as it is, higher is better."""
        return self._quality(self.student)

    @property
    def most(self) -> int:
        """Steps of as many epochs as were asked for."""
        return math.ceil(self.settings.epochs * max(self.given // self.epochs.batch, 1))

    def affordable(self, pace: Pace, done: int = 0) -> int:
        """Steps that there is time for in all, where so many are done; those wanted at most."""
        left = self.clock.left
        if left is None:
            return self.most
        new = min(max(self.epochs.steps - done, 0), int(left / pace.first))
        known = (
            int((left - new * pace.first) / pace.later) if done + new >= self.epochs.steps else 0
        )
        return min(self.most, done + new + known)


def copy_of_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a module's state, apart from it."""
    state = module.state_dict()
    return {n: t.detach().clone() for n, t in state.items() if isinstance(t, torch.Tensor)}


def _some(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """So many of `rows` at most, at random: they may lie in the order of their classes."""
    if count >= len(rows):
        return rows
    return np.sort(np.random.default_rng([seed, 17]).permutation(rows)[:count])
