"""How a run spends its time: what it is judged by, batch, precision, examples, rate and steps."""

from __future__ import annotations

import math
import time

import numpy as np
import torch

from strop.errors import NotApplicable
from strop.training import precision, schedule
from strop.training.course import LEAST_JUDGED, Course, Pace, copy_of_state
from strop.training.loader import Epochs
from strop.training.randomness import random_state, restore_random_state
from strop.training.selection import select
from strop.training.stepper import Diverged

_LEAST_STEPS = 10
_WORTH_TRIALS = 100
_WORTH_STEPS = 400
_JUDGEMENTS, _STEPS_A_JUDGEMENT = 20, 20
_JUDGING_SHARE, _LEAST_JUDGEMENTS = 0.15, 10


def plan(course: Course) -> None:
    """Fill in the progress of a run that begins; the student is left as it was.

    Raises
    ------
    NotApplicable
        When there is no time for a handful of steps, or training diverges at every rate.
    """
    progress, student = course.progress, course.student
    progress.warnings = list(course.objective.warnings)
    if course.judged_on == "trained on":
        progress.warnings.append(
            "the training examples are one group or a handful, of which nothing can be held out: "
            "the student is judged by what it is trained on"
        )
    for line in progress.warnings:
        course.emit(line)
    start, state = copy_of_state(student), random_state(course.device)
    judging = _plan_judging(course)
    progress.before = progress.best = course.judge()
    progress.precision = precision.choose(student, course.settings, course.device)
    course.stepper.compute_in(progress.precision)
    pace = _plan_batch(course)
    progress.warnings += course.stepper.notes  # told already, each when it was found
    progress.batch = course.epochs.batch
    total = course.affordable(pace)
    _check_time(course, total, pace)
    rows, progress.chosen = select(
        course.epochs.rows,
        total * progress.batch,
        batch=progress.batch,
        objective=course.objective,
        loader=course.loader,
        settings=course.settings,
        seed=course.seed,
        seconds=course.clock.left,
    )
    course.epochs = Epochs(rows, progress.batch, course.seed)
    progress.lr = course.settings.lr or _find_rate(course, total, start)
    student.load_state_dict(start)
    restore_random_state(state, course.device)
    progress.total = min(total, course.affordable(pace))
    progress.cached = pace.later / pace.first
    _check_time(course, progress.total, pace)  # planning has taken some
    # Without a limit nothing may depend on the clock: equal seeds give equal weights.
    limited = course.clock.limit is not None
    progress.gap = math.ceil(judging / (_JUDGING_SHARE * pace.later)) if limited else 0
    progress.every = judging_interval(progress.total, progress.gap)
    if progress.total < course.given // progress.batch:
        seen = min(progress.total * progress.batch, len(rows))
        how = ", those that tell most" if progress.chosen == "coreset" else ""
        line = (
            f"the training budget is short of one epoch: {seen:,} of {course.given:,} examples "
            f"are trained on{how}"
        )
        progress.warnings.append(line)
        course.emit(line)


def judging_interval(total: int, gap: int) -> int:
    """Steps between judgements of a run of `total`, `gap` at least where that leaves some."""
    return max(total // _JUDGEMENTS, _STEPS_A_JUDGEMENT, min(gap, total // 4))


def _check_time(course: Course, total: int, pace: Pace) -> None:
    """Refuse a run of so few steps that nothing is learnt."""
    if total < min(_LEAST_STEPS, course.most):
        limit = course.clock.limit or 0.0
        given = f"{limit:.0f}" if limit >= 10 else f"{limit:.2g}"
        raise NotApplicable(
            f"{given} s are too short to train: a step of {course.epochs.batch} examples takes "
            f"{pace.first:.2g} s, and an epoch is {course.epochs.steps} of them",
            hint="a larger --train-budget, or fewer kinds of training (--technique)",
        )


def _plan_judging(course: Course) -> float:
    """Judge by as many examples as leave most of the time for training; seconds for them."""
    course.judge_by(min(course.most_judged, course.epochs.batch))
    took = 0.0
    for _ in range(2):  # the first call warms up what is compiled or cached
        began = time.monotonic()
        course.judge()
        took = (time.monotonic() - began) / course.progress.judged
    count, left = course.most_judged, course.clock.left
    if left is not None:
        paid = int(_JUDGING_SHARE * left / (_LEAST_JUDGEMENTS * max(took, 1e-9)))
        count = min(count, max(paid, 2 * LEAST_JUDGED))
    course.judge_by(count)
    return took * count


def _plan_batch(course: Course) -> Pace:
    """Choose the batch; the pace of it.

    It takes some hundred steps to learn anything. Where there is no time for so many of the
    batch that was asked for, it is halved, within bounds; that is found out with the smallest.
    """
    rows, wanted = course.epochs.rows, course.epochs.batch
    least, left = min(course.settings.least_batch, wanted), course.clock.left
    if least < wanted and left is not None:
        batch = least
        course.epochs = Epochs(rows, batch, course.seed)
        pace = _pace(course).first / least
        while 2 * batch <= wanted and left / (2 * batch * pace) >= _WORTH_STEPS:
            batch *= 2
        if 2 * batch > wanted:
            batch = wanted
        else:
            course.emit(f"{batch} examples a step: of {wanted}, too few steps have time")
        course.epochs = Epochs(rows, batch, course.seed)
    return _pace(course)


def _pace(course: Course) -> Pace:
    """Of a few steps, the first left out: it also warms up what is compiled or cached."""
    # The last once more: by then the teacher's outputs for it are kept.
    *new, known = [course.stepper.seconds(course.epochs.batch_at(n), n) for n in (0, 1, 2, 2)]
    first = max(float(np.mean(new[1:])), 1e-5)
    return Pace(first, min(max(known, 1e-5), first))


def _find_rate(course: Course, total: int, start: dict[str, torch.Tensor]) -> float:
    """The peak by short trials, some tenth of the steps; a default for the shortest runs."""
    rates = course.settings.rates
    if total < _WORTH_TRIALS:
        return rates[(len(rates) - 1) // 2]
    steps = min(max(total // 40, 8), 25)

    def trial(rate: float) -> float:
        course.student.load_state_dict(start)
        optimizer = course.stepper.optimizer(rate)
        losses = []
        for number in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (number + 1) / 5)
            rows = course.epochs.batch_at(number)
            try:
                losses.append(course.stepper.step(optimizer, rows, number))
            except Diverged:
                return math.nan
        return float(np.mean(losses[-max(2, steps // 3) :]))

    rate = schedule.choose_peak(trial, rates)
    if rate is None:
        raise NotApplicable("training diverges at every learning rate that was tried")
    course.emit(f"learning rate {rate:g}")
    return rate
