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
from strop.training.judge import Judge
from strop.training.loader import Batch, Loader, hold_out, order
from strop.training.memory import checkpoint_blocks, is_out_of_memory
from strop.training.objective import Loss, Objective
from strop.training.resources import device_of, threads, useful_threads
from strop.training.selection import select
from strop.training.settings import TrainReport, TrainSettings

_LR = 1e-3
_LEAST_STEPS = 10
_WORTH_TRIALS = 100
_JUDGED_ROWS, _JUDGEMENTS, _STEPS_A_JUDGEMENT = 2000, 20, 20
_SAVE_EVERY = 30.0
_LEAST_JUDGED = 100
_END_SHARE = 0.97
_FALLING = 0.99

Emit = Callable[[str], None]


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
        Called with the student after every optimizer step.
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
                f"out of memory at {settings.batch} examples a step, on {run.device}"
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
        self._start = time.monotonic()
        self.device = device_of(settings)
        self._student = student
        self._settings, self._workdir, self._seed = settings, workdir, seed
        self._deadline, self._emit, self._after_step = deadline, emit, after_step
        self._data, self._metric = data, metric
        if judge is not None and len(judge) >= _LEAST_JUDGED:
            self._judging, self._judged_on = judge, "search"
            self._rows = np.arange(len(data))
            self._judged = np.arange(min(len(judge), _JUDGED_ROWS))
        else:
            self._judging, self._judged_on = data, "held out"
            self._rows, self._judged = hold_out(data, settings.held_out, seed, _JUDGED_ROWS)
        self._batch = min(settings.batch, len(self._rows))
        if settings.batch < 2:
            raise NotApplicable(
                "the model takes one example at a time, and training needs more: export it with a "
                "free batch dimension"
            )
        if self._batch < 2:
            raise NotApplicable(f"{len(data)} training examples are too few to train on")
        self._of = len(self._rows)
        self._most = math.ceil(settings.epochs * self._epoch_steps)
        self._loader = Loader(data, self.device, augment=settings.augment, seed=seed)
        if teacher is not None:
            teacher = teacher.to(self.device).eval()
        student.to(self.device)
        self._objective = Objective(form, teacher, data, self._loader, settings, workdir, loss)
        self._parts = 1
        self._uncheckpoint: Callable[[], None] | None = None
        self._parameters = _trainable(student, emit)
        shapes = [[n, list(p.shape)] for n, p in student.named_parameters()]
        identity = {**settings.identity(), "seed": seed, "data": data.digest, "student": shapes}
        identity |= {"judge": self._judging.digest, "metric": metric}
        self._progress = Progress(identity)
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])
        self._quality: Judge

    def go(self) -> TrainReport:
        student = self._student
        self._objective.prepare(student)
        same = self._judging is self._data
        loader = self._loader if same else Loader(self._judging, self.device)
        self._quality = self._objective.judge(
            self._judging, self._judged, loader, batch=self._batch, metric=self._metric
        )
        saved = checkpoint.load(self._workdir, self._progress.identity)
        optimizer = self._optimizer(_LR)
        if saved is not None:
            self._progress, tensors = saved
            student.load_state_dict(checkpoint.part(tensors, "student"))
            best = checkpoint.part(tensors, "best")
            checkpoint.restore_optimizer(optimizer, tensors)
            torch.set_rng_state(tensors["rng"])
            self._rows = tensors["rows"].numpy()
            self._set_layout(self._progress.precision)
            self._emit(f"training goes on at step {self._progress.step}")
        else:
            self._plan()
            optimizer = self._optimizer(self._progress.lr)
            best = _copy_state(student)
        self._resumed = self._progress.step
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
        if self._uncheckpoint is not None:
            self._uncheckpoint()
        self._student.to(self.device, memory_format=torch.contiguous_format).cpu().eval()
        self._student.zero_grad(set_to_none=True)

    # Planning: precision, pace, learning rate, number of steps.

    def _plan(self) -> None:
        progress, student = self._progress, self._student
        progress.warnings = list(self._objective.warnings)
        for line in progress.warnings:
            self._emit(line)
        start = _copy_state(student)
        rng = torch.get_rng_state()
        progress.before = progress.best = self._judge()
        progress.precision = precision.choose(student, self._settings, self.device)
        self._set_layout(progress.precision)
        pace = self._pace()
        limit = self._limit()
        total = self._most
        if limit is not None:
            affordable = int(max(limit * _END_SHARE - self._elapsed(), 0.0) / pace)
            if affordable < min(_LEAST_STEPS, total):
                raise NotApplicable(
                    f"{limit:.0f} s are too short to train: a step of {self._batch} examples "
                    f"takes {pace:.2g} s, and an epoch is {self._epoch_steps} of them"
                )
            total = min(total, affordable)
        self._select(total)
        progress.lr = self._settings.lr or self._find_lr(total, start)
        student.load_state_dict(start)
        torch.set_rng_state(rng)
        if limit is not None:
            affordable = int(max(limit * _END_SHARE - self._elapsed(), 0.0) / pace)
            total = max(min(total, affordable), 1)
        progress.total = total
        progress.every = _interval(total)
        if total < self._of // self._batch:
            seen = min(total * self._batch, len(self._rows))
            how = ", those that tell most" if progress.chosen == "coreset" else ""
            line = (
                f"the training budget is short of one epoch: {seen:,} of {self._of:,} examples "
                f"are trained on{how}"
            )
            progress.warnings.append(line)
            self._emit(line)

    def _select(self, total: int) -> None:
        """Leave rows out that there is no time for."""
        limit = self._limit()
        left = None if limit is None else max(limit * _END_SHARE - self._elapsed(), 0.0)
        self._rows, self._progress.chosen = select(
            self._rows,
            total * self._batch,
            batch=self._batch,
            objective=self._objective,
            loader=self._loader,
            settings=self._settings,
            seed=self._seed,
            seconds=left,
        )
        self._epoch = (-1, [])

    @property
    def _epoch_steps(self) -> int:
        return max(len(self._rows) // self._batch, 1)

    def _pace(self) -> float:
        """Seconds of a step, the first left out: it also warms up what is compiled or cached."""
        times = []
        for number in range(3):
            began = time.monotonic()
            self._backward(self._batch_at(number), number)
            self._synchronise()
            times.append(time.monotonic() - began)
        self._student.zero_grad(set_to_none=True)
        return max(float(np.mean(times[1:])), 1e-5)

    def _find_lr(self, total: int, start: dict[str, torch.Tensor]) -> float:
        """The peak by short trials, some tenth of the steps; a default for the shortest runs."""
        if total < _WORTH_TRIALS:
            return _LR
        steps = min(max(total // 40, 8), 25)

        def trial(rate: float) -> float:
            self._student.load_state_dict(start)
            optimizer = self._optimizer(rate)
            losses = []
            for number in range(steps):
                for group in optimizer.param_groups:
                    group["lr"] = rate * min(1.0, (number + 1) / 5)
                try:
                    losses.append(self._step(optimizer, number))
                except NotApplicable:
                    return math.nan
            return float(np.mean(losses[-max(2, steps // 3) :]))

        rate = schedule.choose_peak(trial)
        if rate is None:
            raise NotApplicable("training diverges at every learning rate that was tried")
        self._emit(f"learning rate {rate:g}")
        return rate

    # The loop.

    def _loop(self, optimizer: torch.optim.Optimizer, best: dict[str, torch.Tensor]) -> str:
        progress = self._progress
        losses: list[float] = []
        saved = time.monotonic()
        whole = self._limit()
        save_every = _SAVE_EVERY if whole is None else min(_SAVE_EVERY, whole / 20)
        while progress.step < progress.total:
            if (limit := self._limit()) is not None and self._elapsed() > limit:
                if losses:  # what was learned since the last judgement counts too
                    self._record(float(np.mean(losses)), best)
                return "time"
            rate = progress.lr * schedule.factor(progress.step / progress.total)
            for group in optimizer.param_groups:
                group["lr"] = rate
            losses.append(self._step(optimizer, progress.step))
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

    def _step(self, optimizer: torch.optim.Optimizer, number: int) -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = self._backward(self._batch_at(number), number)
        if not math.isfinite(loss):
            raise NotApplicable(
                f"training diverged at step {number}: the loss is {loss} "
                f"(learning rate {optimizer.param_groups[0]['lr']:.2g})"
            )
        nn.utils.clip_grad_norm_(self._parameters, 5.0)
        optimizer.step()
        if self._after_step is not None:
            self._after_step(self._student)
        return loss

    def _backward(self, rows: np.ndarray, number: int) -> float:
        """Gradients of one batch, in parts where memory is short."""
        while True:
            try:
                self._student.train()
                _keep_frozen_statistics(self._student)
                total = 0.0
                for part in np.array_split(rows, self._parts):
                    batch = self._loader.read(part, step=number)
                    loss = self._loss(batch) * (len(part) / len(rows))
                    loss.backward()
                    total += float(loss.detach())
                return total
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or not self._save_memory():
                    raise
                self._student.zero_grad(set_to_none=True)

    def _loss(self, batch: Batch) -> torch.Tensor:
        half = self._progress.precision.startswith("bfloat16")
        if self._progress.precision.endswith("channels last"):
            inputs = {
                n: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t
                for n, t in batch.inputs.items()
            }
            batch = Batch(batch.rows, inputs, batch.targets)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            return self._objective(self._student, batch)

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
        seconds = self._elapsed()
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
        limit = self._limit()
        done = progress.step - self._resumed
        if limit is None or done < 1 or progress.shortened:
            return
        pace = (time.monotonic() - self._began) / done
        left = int(max(limit * _END_SHARE - self._elapsed(), 0.0) / pace)
        total = min(progress.step + left, self._most)
        if total < progress.total or progress.step < progress.total // 2:
            progress.total = total
            progress.every = _interval(total)

    def _judge(self) -> float:
        return self._quality(self._student)

    def _batch_at(self, number: int) -> np.ndarray:
        epoch, place = divmod(number, self._epoch_steps)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, list(order(self._rows, epoch, self._seed, self._batch)))
        return self._epoch[1][place]

    # Resources.

    def _optimizer(self, rate: float) -> torch.optim.Optimizer:
        decayed = [p for p in self._parameters if p.ndim > 1]
        plain = [p for p in self._parameters if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": self._settings.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        self._began = time.monotonic()
        return torch.optim.AdamW([g for g in groups if g["params"]], lr=rate)

    def _save_memory(self) -> bool:
        """Make the next attempt at a step need less; False when nothing is left to try."""
        if self._uncheckpoint is None:
            self._uncheckpoint = checkpoint_blocks(self._student)
            if self._uncheckpoint is not None:
                self._emit("memory is short: activations are computed again on the way back")
                return True
        if self._batch // (2 * self._parts) < 2:
            return False
        self._parts *= 2
        self._emit(f"memory is short: a step goes in {self._parts} parts")
        return True

    def _save(self, optimizer: torch.optim.Optimizer, best: dict[str, torch.Tensor]) -> None:
        self._objective.flush()
        values = {**vars(self._progress), "seconds": self._elapsed()}
        checkpoint.save(
            self._workdir,
            Progress(**values),
            self._student.state_dict(),
            best,
            optimizer,
            torch.from_numpy(self._rows),
        )

    def _elapsed(self) -> float:
        """Seconds over all attempts."""
        return self._progress.seconds + time.monotonic() - self._start

    def _limit(self) -> float | None:
        """Seconds over all attempts after which it must end."""
        limits = [] if self._settings.seconds is None else [self._settings.seconds]
        if self._deadline is not None:
            limits.append(self._deadline - self._start + self._progress.seconds)
        return min(limits, default=None)

    def _set_layout(self, chosen: str) -> None:
        last = chosen.endswith("channels last")
        layout = torch.channels_last if last else torch.contiguous_format
        self._student.to(memory_format=layout)

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _report(self, stopped: str) -> TrainReport:
        progress = self._progress
        return TrainReport(
            steps=progress.step,
            epochs=progress.step * self._batch / self._of,
            seconds=self._elapsed(),
            lr=progress.lr,
            precision=progress.precision,
            device=str(self.device),
            quality=self._quality.name,
            judged_on=self._judged_on,
            judged=len(self._judged),
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


def _interval(total: int) -> int:
    """Steps between judgements."""
    return max(total // _JUDGEMENTS, _STEPS_A_JUDGEMENT)


def _trainable(student: nn.Module, emit: Emit) -> list[nn.Parameter]:
    """Parameters to train: those that are not frozen; all where all are, as in a served module."""
    floats = [p for p in student.parameters() if p.is_floating_point()]
    if not floats:
        raise NotApplicable("the module has no parameters to train")
    free = [p for p in floats if p.requires_grad]
    if not free:
        emit("every parameter is frozen: all are trained, as the module was made for inference")
        for parameter in floats:
            parameter.requires_grad_(True)
        return floats
    if len(free) < len(floats):
        emit(f"{len(floats) - len(free)} of {len(floats)} parameters are frozen and stay so")
    return free


def _keep_frozen_statistics(student: nn.Module) -> None:
    """Normalisation whose weights are frozen keeps its statistics too."""
    for part in student.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            weights = list(part.parameters(recurse=False))
            if weights and not any(w.requires_grad for w in weights):
                part.eval()


def _copy_state(module: nn.Module) -> dict[str, torch.Tensor]:
    state = module.state_dict()
    return {n: t.detach().clone() for n, t in state.items() if isinstance(t, torch.Tensor)}
