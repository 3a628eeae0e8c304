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
from strop.training import checkpoint, precision, schedule
from strop.training.checkpoint import Progress
from strop.training.clock import Clock
from strop.training.judge import Judge
from strop.training.loader import Loader, hold_out, order
from strop.training.memory import is_out_of_memory
from strop.training.objective import Loss, Objective
from strop.training.resources import device_of, threads, useful_threads
from strop.training.selection import select
from strop.training.settings import TrainReport, TrainSettings
from strop.training.stepper import Emit, Stepper

_LEAST_STEPS = 10
_WORTH_TRIALS = 100
_WORTH_STEPS = 400
_JUDGED_ROWS, _JUDGEMENTS, _STEPS_A_JUDGEMENT = 2000, 20, 20
_JUDGING_SHARE, _LEAST_JUDGEMENTS = 0.15, 10
_SAVE_EVERY = 30.0
_LEAST_JUDGED = 100
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
    with threads(useful_threads(settings, student, teacher)), torch.random.fork_rng():
        torch.manual_seed(seed)
        run = _Run(
            student,
            form,
            teacher,
            data,
            settings,
            workdir,
            deadline,
            seed,
            emit,
            after_step,
            loss,
            judge,
            metric,
        )
        try:
            return run.go()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise NotApplicable(
                f"out of memory at {run.batch} examples a step, on {run.device}"
            ) from error
        finally:
            run.close()


class _Run:
    """The state of one call of :func:`train`."""

    def __init__(
        self,
        student: nn.Module,
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
        self._clock = Clock(settings.seconds, deadline)
        self.device = device_of(settings)
        self._student = student
        self._settings, self._workdir, self._seed = settings, workdir, seed
        self._emit, self._data, self._metric = emit, data, metric
        if judge is not None and len(judge) >= _LEAST_JUDGED:
            self._judging, self._judged_on = judge, "search"
            self._rows = np.arange(len(data))
            self._judged = _some(np.arange(len(judge)), _JUDGED_ROWS, seed)
        else:
            self._judging, self._judged_on = data, "held out"
            self._rows, self._judged = hold_out(data, settings.held_out, seed, _JUDGED_ROWS)
        self.batch = min(settings.batch, len(self._rows))
        if settings.batch < 2:
            raise NotApplicable(
                "the model takes one example at a time, and training needs more: export it with a "
                "free batch dimension"
            )
        if self.batch < 2:
            raise NotApplicable(f"{len(data)} training examples are too few to train on")
        self._of = len(self._rows)
        self._loader = Loader(data, self.device, augment=settings.augment, seed=seed)
        if teacher is not None:
            teacher = teacher.to(self.device).eval()
        student.to(self.device)
        self._objective = Objective(form, teacher, data, self._loader, settings, workdir, loss)
        self._stepper = Stepper(
            student, self._objective, self._loader, settings, self.device, emit, after_step
        )
        shapes = [[n, list(p.shape)] for n, p in student.named_parameters()]
        identity = {**settings.identity(), "seed": seed, "data": data.digest, "student": shapes}
        identity |= {"judge": self._judging.digest, "metric": metric}
        self._progress = Progress(identity)
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])
        self._quality: Judge

    def go(self) -> TrainReport:
        student = self._student
        self._objective.prepare(student)
        saved = checkpoint.load(self._workdir, self._progress.identity)
        if saved is not None:
            self._progress, tensors = saved
            self.batch, self._clock.before = self._progress.batch, self._progress.seconds
            self._judge_by(self._progress.judged)
            student.load_state_dict(checkpoint.part(tensors, "student"))
            best = checkpoint.part(tensors, "best")
            optimizer = self._stepper.optimizer(self._progress.lr)
            checkpoint.restore_optimizer(optimizer, tensors)
            torch.set_rng_state(tensors["rng"])
            self._rows = tensors["rows"].numpy()
            self._stepper.compute_in(self._progress.precision)
            self._emit(f"training goes on at step {self._progress.step}")
        else:
            self._plan()
            optimizer = self._stepper.optimizer(self._progress.lr)
            best = _copy_state(student)
        self._began, self._resumed = time.monotonic(), self._progress.step
        self._objective.open(student)
        stopped = self._loop(optimizer, best)
        self._objective.close()
        self._save(optimizer, best)
        student.load_state_dict(best)
        return self._report(stopped)

    def close(self) -> None:
        """Leave the student as a caller expects it, whatever happened."""
        self._objective.close()
        self._objective.flush()
        self._stepper.close()

    # Planning: what is judged, precision, pace, learning rate, number of steps.

    def _plan(self) -> None:
        progress, student = self._progress, self._student
        progress.warnings = list(self._objective.warnings)
        for line in progress.warnings:
            self._emit(line)
        start = _copy_state(student)
        rng = torch.get_rng_state()
        judging = self._plan_judging()
        progress.before = progress.best = self._judge()
        progress.precision = precision.choose(student, self._settings, self.device)
        self._stepper.compute_in(progress.precision)
        pace = self._plan_batch()
        progress.batch = self.batch
        total = self._affordable(pace)
        if total < min(_LEAST_STEPS, self._most):
            raise NotApplicable(
                f"{self._clock.limit:.0f} s are too short to train: a step of {self.batch} "
                f"examples takes {pace:.2g} s, and an epoch is {self._epoch_steps} of them"
            )
        self._select(total)
        progress.lr = self._settings.lr or self._find_lr(total, start)
        student.load_state_dict(start)
        torch.set_rng_state(rng)
        progress.total = max(min(total, self._affordable(pace)), 1)
        progress.gap = math.ceil(judging / (_JUDGING_SHARE * pace))
        progress.every = self._interval(progress.total)
        if progress.total < self._of // self.batch:
            seen = min(progress.total * self.batch, len(self._rows))
            how = ", those that tell most" if progress.chosen == "coreset" else ""
            line = (
                f"the training budget is short of one epoch: {seen:,} of {self._of:,} examples "
                f"are trained on{how}"
            )
            progress.warnings.append(line)
            self._emit(line)

    def _plan_judging(self) -> float:
        """Judge by as many examples as leave most of the time for training; seconds for them."""
        self._judge_by(min(len(self._judged), self.batch))
        took = 0.0
        for _ in range(2):  # the first call warms up what is compiled or cached
            began = time.monotonic()
            self._judge()
            took = (time.monotonic() - began) / len(self._judged_rows)
        count, left = len(self._judged), self._clock.left
        if left is not None:
            paid = int(_JUDGING_SHARE * left / (_LEAST_JUDGEMENTS * max(took, 1e-9)))
            count = min(count, max(paid, 2 * _LEAST_JUDGED))
        self._judge_by(count)
        self._progress.judged = count
        return took * count

    def _plan_batch(self) -> float:
        """Choose the batch; seconds of a step of it.

        It takes some hundred steps to learn anything. Where there is no time for so many of the
        batch that was asked for, it is halved, within bounds; that is found out with the smallest.
        """
        least = min(self._settings.least_batch, self.batch)
        left = self._clock.left
        if least < self.batch and left is not None:
            wanted, self.batch = self.batch, least
            pace = self._pace() / least
            while 2 * self.batch <= wanted and left / (2 * self.batch * pace) >= _WORTH_STEPS:
                self.batch *= 2
            if 2 * self.batch > wanted:
                self.batch = wanted
            else:
                self._emit(f"{self.batch} examples a step: of {wanted}, too few steps have time")
            self._epoch = (-1, [])
        return self._pace()

    def _affordable(self, pace: float) -> int:
        """Steps that there is time for, at so many seconds each; those wanted at most."""
        left = self._clock.left
        return self._most if left is None else min(self._most, int(left / pace))

    def _select(self, total: int) -> None:
        """Leave rows out that there is no time for."""
        self._rows, self._progress.chosen = select(
            self._rows,
            total * self.batch,
            batch=self.batch,
            objective=self._objective,
            loader=self._loader,
            settings=self._settings,
            seed=self._seed,
            seconds=self._clock.left,
        )
        self._epoch = (-1, [])

    @property
    def _epoch_steps(self) -> int:
        return max(len(self._rows) // self.batch, 1)

    @property
    def _most(self) -> int:
        """Steps of as many epochs as were asked for."""
        return math.ceil(self._settings.epochs * max(self._of // self.batch, 1))

    def _pace(self) -> float:
        """Seconds of a step, the first left out: it also warms up what is compiled or cached."""
        times = [self._stepper.seconds(self._batch_at(number), number) for number in range(3)]
        return max(float(np.mean(times[1:])), 1e-5)

    def _find_lr(self, total: int, start: dict[str, torch.Tensor]) -> float:
        """The peak by short trials, some tenth of the steps; a default for the shortest runs."""
        rates = self._settings.rates
        if total < _WORTH_TRIALS:
            return rates[(len(rates) - 1) // 2]
        steps = min(max(total // 40, 8), 25)

        def trial(rate: float) -> float:
            self._student.load_state_dict(start)
            optimizer = self._stepper.optimizer(rate)
            losses = []
            for number in range(steps):
                for group in optimizer.param_groups:
                    group["lr"] = rate * min(1.0, (number + 1) / 5)
                try:
                    losses.append(self._stepper.step(optimizer, self._batch_at(number), number))
                except NotApplicable:
                    return math.nan
            return float(np.mean(losses[-max(2, steps // 3) :]))

        rate = schedule.choose_peak(trial, rates)
        if rate is None:
            raise NotApplicable("training diverges at every learning rate that was tried")
        self._emit(f"learning rate {rate:g}")
        return rate

    # The loop.

    def _loop(self, optimizer: torch.optim.Optimizer, best: dict[str, torch.Tensor]) -> str:
        progress = self._progress
        losses: list[float] = []
        saved = time.monotonic()
        whole = self._clock.limit
        save_every = _SAVE_EVERY if whole is None else min(_SAVE_EVERY, whole / 20)
        while progress.step < progress.total:
            if self._clock.over:
                if losses:  # what was learned since the last judgement counts too
                    self._record(float(np.mean(losses)), best)
                return "time"
            rate = progress.lr * schedule.factor(progress.step / progress.total)
            for group in optimizer.param_groups:
                group["lr"] = rate
            rows = self._batch_at(progress.step)
            losses.append(self._stepper.step(optimizer, rows, progress.step))
            progress.step += 1
            if progress.step % progress.every == 0 or progress.step == progress.total:
                self._record(float(np.mean(losses)), best)
                losses.clear()
                self._replan()
                patience = self._settings.patience
                if patience is not None and progress.stale >= patience:
                    if progress.shortened:
                        return "early"
                    # The rate is still high: what is left is shortened rather than cut off.
                    left = progress.total - progress.step
                    progress.total = progress.step + left // 4
                    progress.stale, progress.shortened = 0, True
            if time.monotonic() - saved > save_every:
                self._save(optimizer, best)
                saved = time.monotonic()
        return "early" if progress.shortened else "done"

    def _record(self, loss: float, best: dict[str, torch.Tensor]) -> None:
        progress = self._progress
        quality = self._judge()
        if math.isfinite(quality) and quality > progress.best:
            progress.best, progress.stale = quality, 0
            best.update(_copy_state(self._student))
        elif loss < progress.lowest * _FALLING:
            progress.stale = 0  # decisions may stand still for a while before they turn
        else:
            progress.stale += 1
        progress.lowest = min(progress.lowest, loss)
        seconds = self._clock.elapsed
        progress.history.append([round(seconds, 3), progress.step, loss, quality])
        epochs, planned = (n / self._epoch_steps for n in (progress.step, progress.total))
        self._emit(
            f"epoch {epochs:.1f} of {planned:.1f}: loss {loss:.3f}, "
            f"{self._quality.name} {quality:.2%} ({seconds:.0f} s)"
        )

    def _replan(self) -> None:
        """As many steps as time allows, by the pace so far, so that the rate falls in time.

        More than planned only in the first half: later the rate would have to rise again.
        """
        progress = self._progress
        done = progress.step - self._resumed
        if self._clock.limit is None or done < 1 or progress.shortened:
            return
        left = self._affordable((time.monotonic() - self._began) / done)
        total = min(progress.step + left, self._most)
        if total < progress.total or progress.step < progress.total // 2:
            progress.total = total
            progress.every = self._interval(total)

    def _interval(self, total: int) -> int:
        """Steps between judgements."""
        return max(total // _JUDGEMENTS, _STEPS_A_JUDGEMENT, min(self._progress.gap, total // 4))

    def _judge_by(self, count: int) -> None:
        """Judge by so many of the examples that there are to judge by."""
        self._judged_rows = _some(self._judged, count, self._seed)
        same = self._judging is self._data
        loader = self._loader if same else Loader(self._judging, self.device)
        self._quality = self._objective.judge(
            self._judging, self._judged_rows, loader, batch=self.batch, metric=self._metric
        )

    def _judge(self) -> float:
        return self._quality(self._student)

    def _batch_at(self, number: int) -> np.ndarray:
        epoch, place = divmod(number, self._epoch_steps)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, list(order(self._rows, epoch, self._seed, self.batch)))
        return self._epoch[1][place]

    def _save(self, optimizer: torch.optim.Optimizer, best: dict[str, torch.Tensor]) -> None:
        self._objective.flush()
        values = {**vars(self._progress), "seconds": self._clock.elapsed}
        checkpoint.save(
            self._workdir,
            Progress(**values),
            self._student.state_dict(),
            best,
            optimizer,
            torch.from_numpy(self._rows),
        )

    def _report(self, stopped: str) -> TrainReport:
        progress = self._progress
        return TrainReport(
            steps=progress.step,
            epochs=progress.step * self.batch / self._of,
            seconds=self._clock.elapsed,
            lr=progress.lr,
            precision=progress.precision,
            device=str(self.device),
            quality=self._quality.name,
            judged_on=self._judged_on,
            judged=len(self._judged_rows),
            batch=self.batch,
            rows=len(self._rows),
            of=self._of,
            chosen=progress.chosen,
            before=progress.before,
            best=progress.best,
            history=tuple((s, int(n), loss, q) for s, n, loss, q in progress.history),
            stopped=stopped,
            warnings=tuple(progress.warnings),
            resumed=self._resumed,
        )


def _some(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """So many of `rows` at most, at random: they may lie in the order of their classes."""
    if count >= len(rows):
        return rows
    return np.sort(np.random.default_rng([seed, 17]).permutation(rows)[:count])


def _copy_state(module: nn.Module) -> dict[str, torch.Tensor]:
    state = module.state_dict()
    return {n: t.detach().clone() for n, t in state.items() if isinstance(t, torch.Tensor)}
