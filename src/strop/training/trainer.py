"""One training run: within a budget, resumable, the same on CPU and GPU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from strop.data import Dataset
from strop.errors import NotApplicable
from strop.models.module_form import ModuleForm
from strop.training import checkpoint, schedule
from strop.training.allocator import memory_kept
from strop.training.checkpoint import Progress
from strop.training.course import Course, Pace, copy_of_state
from strop.training.loader import Epochs
from strop.training.memory import is_out_of_memory
from strop.training.objective import Loss
from strop.training.plan import judging_interval, plan
from strop.training.randomness import random_state, restore_random_state
from strop.training.resources import threads, useful_threads
from strop.training.settings import TrainReport, TrainSettings
from strop.training.stepper import Emit

_SAVE_EVERY = 30.0
_FALLING = 0.99


def train(
    student: nn.Module,
    *,
    form: ModuleForm,
    teacher: nn.Module | None,
    data: Dataset,
    settings: TrainSettings,
    workdir: Path,
    deadline: float | None = None,
    seed: int = 0,
    emit: Emit = lambda line: None,
    after_step: Callable[[nn.Module], None] | None = None,
    loss: Loss | None = None,
    judge: Dataset | None = None,
    metric: str = "",
) -> TrainReport:
    """Train `student` in place; it ends with the best weights seen, on the CPU, evaluating.

    A run that was killed goes on from its last checkpoint in `workdir`, with the same batches and
    the same schedule. Equal seeds give equal weights on one machine unless time cuts a run short.

    Parameters
    ----------
    form
        How named tensors go through student and teacher alike.
    teacher
        Whose outputs are learnt; None learns the labels alone.
    data
        Training examples, labelled or not.
    workdir
        Holds the checkpoint and the teacher's outputs; remove it when the result is safe.
    deadline
        `time.monotonic` value by which it must have ended.
    after_step
        Called with the student after every move of the optimizer.
    loss
        Takes the place of the losses on outputs (`strop.training.objective`).
    judge
        Examples that decide when to stop and which weights are kept: the search split, never
        those that prove. Without them, or where they are fewer than 100, a part of `data`, whole
        groups at a time, is held out.
    metric
        Name of the metric to judge by (`strop.training.judge`); empty leaves the choice.

    Raises
    ------
    NotApplicable
        It diverged, ran out of memory, has too little time or nothing to learn from; the message
        is the reason.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    few = threads(useful_threads(settings, student, teacher))
    with few, memory_kept(), torch.random.fork_rng():
        torch.manual_seed(seed)
        course = Course(
            student,
            form=form,
            teacher=teacher,
            data=data,
            settings=settings,
            workdir=workdir,
            deadline=deadline,
            seed=seed,
            emit=emit,
            after_step=after_step,
            loss=loss,
            judge=judge,
            metric=metric,
        )
        try:
            return _Run(course, workdir).go()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise NotApplicable(
                f"out of memory at {course.epochs.batch} examples a step, on {course.device}"
            ) from error
        finally:
            course.close()


class _Run:
    """One attempt at a course: planned or taken up again, to its end."""

    def __init__(self, course: Course, workdir: Path) -> None:
        self._course, self._workdir = course, workdir

    def go(self) -> TrainReport:
        course = self._course
        course.objective.prepare(course.student)
        # What is matched inside costs time and memory too: the plan must see it.
        course.objective.open(course.student)
        saved = checkpoint.load(self._workdir, course.progress.identity)
        if saved is not None:
            best, optimizer = self._take_up(*saved)
        else:
            plan(course)
            optimizer = course.stepper.optimizer(course.progress.lr)
            best = copy_of_state(course.student)
        self._resumed = course.progress.step
        self._replanned = time.monotonic(), course.progress.step
        stopped = self._loop(optimizer, best)
        course.objective.close()
        self._save(optimizer, best)
        course.student.load_state_dict(best)
        return self._report(stopped)

    def _take_up(
        self, progress: Progress, tensors: dict[str, torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], torch.optim.Optimizer]:
        """Go on from a checkpoint: the best weights so far, and the optimizer."""
        course = self._course
        course.progress, course.clock.before = progress, progress.seconds
        course.epochs = Epochs(tensors["rows"].numpy(), progress.batch, course.seed)
        course.judge_by(progress.judged)
        course.student.load_state_dict(checkpoint.part(tensors, "student"))
        optimizer = course.stepper.optimizer(progress.lr)
        checkpoint.restore_optimizer(optimizer, tensors)
        restore_random_state(tensors, course.device)
        course.stepper.compute_in(progress.precision)
        course.emit(f"training goes on at step {progress.step}")
        return checkpoint.part(tensors, "best"), optimizer

    def _loop(self, optimizer: torch.optim.Optimizer, best: dict[str, torch.Tensor]) -> str:
        course, progress = self._course, self._course.progress
        saved = time.monotonic()
        whole = course.clock.limit
        save_every = _SAVE_EVERY if whole is None else min(_SAVE_EVERY, whole / 20)
        while progress.step < progress.total:
            if course.clock.over:
                if progress.losses:  # what was learned since the last judgement counts too
                    self._record(best)
                return "early" if progress.shortened else "time"
            rate = progress.lr * schedule.factor(self._position())
            for group in optimizer.param_groups:
                group["lr"] = rate
            rows = course.epochs.batch_at(progress.step)
            progress.losses.append(course.stepper.step(optimizer, rows, progress.step))
            progress.step += 1
            if progress.step % progress.every == 0 or progress.step == progress.total:
                self._record(best)
                self._replan()
                self._shorten()
            if time.monotonic() - saved > save_every:
                self._save(optimizer, best)
                saved = time.monotonic()
        if progress.shortened:
            return "early"
        return "done" if progress.total >= course.most else "time"

    def _record(self, best: dict[str, torch.Tensor]) -> None:
        """Judge the student; keep its weights where they are the best so far."""
        course, progress = self._course, self._course.progress
        loss, quality = float(np.mean(progress.losses)), course.judge()
        progress.losses.clear()
        # A student that could not be judged at first (a NaN) is bettered by any that can.
        if math.isfinite(quality) and not quality <= progress.best:
            progress.best, progress.stale = quality, 0
            best.update(copy_of_state(course.student))
        elif loss < progress.lowest * _FALLING:
            progress.stale = 0  # decisions may stand still for a while before they turn
        else:
            progress.stale += 1
        progress.lowest = min(progress.lowest, loss)
        seconds = course.clock.elapsed
        progress.history.append([round(seconds, 3), progress.step, loss, quality])
        epochs, planned = (n / course.epochs.steps for n in (progress.step, progress.total))
        course.emit(
            f"epoch {epochs:.1f} of {planned:.1f}: loss {loss:.3f}, "
            f"{course.quality} {quality:.2%} ({seconds:.0f} s)"
        )

    def _replan(self) -> None:
        """As many steps as time allows, by the pace since it was last asked.

        Steps of the first epoch wait for the teacher: the others will be faster by as much as the
        plan saw.
        """
        course, progress = self._course, self._course.progress
        (began, step), now = self._replanned, time.monotonic()
        if course.clock.limit is None or progress.shortened or progress.step >= progress.total:
            return
        self._replanned = now, progress.step
        recent = max((now - began) / (progress.step - step), 1e-9)
        later = recent * (progress.cached if step < course.epochs.steps else 1.0)
        self._end_at(course.affordable(Pace(recent, later), progress.step))
        progress.every = judging_interval(progress.total, progress.gap)

    def _position(self) -> float:
        """Where in the schedule of the rate the run stands."""
        progress = self._course.progress
        return schedule.position(progress.step, progress.total, progress.since, progress.at)

    def _end_at(self, total: int) -> None:
        """Plan so many steps in all; the rate falls from where it is."""
        progress = self._course.progress
        if progress.step < progress.total != total:
            progress.since, progress.at = progress.step, self._position()
            progress.total = total

    def _shorten(self) -> None:
        """Once judgements no longer improve: a quarter of what is left, and then an end.

        Not cut off at once: the rate is still high.
        """
        progress, patience = self._course.progress, self._course.settings.patience
        if patience is None or progress.stale < patience:
            return
        left = 0 if progress.shortened else progress.total - progress.step
        self._end_at(progress.step + left // 4)
        progress.stale, progress.shortened = 0, True

    def _save(self, optimizer: torch.optim.Optimizer, best: dict[str, torch.Tensor]) -> None:
        course = self._course
        course.objective.flush()
        values = {**vars(course.progress), "seconds": course.clock.elapsed}
        checkpoint.save(
            self._workdir,
            Progress(**values),
            course.student.state_dict(),
            best,
            optimizer,
            {"rows": torch.from_numpy(course.epochs.rows), **random_state(course.device)},
        )

    def _report(self, stopped: str) -> TrainReport:
        course, progress = self._course, self._course.progress
        return TrainReport(
            steps=progress.step,
            epochs=progress.step * progress.batch / course.given,
            seconds=course.clock.elapsed,
            lr=progress.lr,
            precision=progress.precision,
            device=str(course.device),
            quality=course.quality,
            judged_on=course.judged_on,
            judged=progress.judged,
            batch=progress.batch,
            rows=len(course.epochs.rows),
            of=course.given,
            chosen=progress.chosen,
            before=progress.before,
            best=progress.best,
            history=tuple((s, int(n), loss, q) for s, n, loss, q in progress.history),
            stopped=stopped,
            # What was said of parameters may have been said after the plan, or once more.
            warnings=tuple(dict.fromkeys([*progress.warnings, *course.stepper.notes])),
            resumed=self._resumed,
        )
