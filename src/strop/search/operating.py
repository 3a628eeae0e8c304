"""Settings of a candidate timed on this machine: what :mod:`strop.search.tuning` climbs on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np

from strop import engines
from strop.errors import StropError
from strop.measure import Arena, Conditions, summarise
from strop.records import OperatingPoint, Recipe, SessionSpec, Trial
from strop.search.builder import Built, build
from strop.search.objective import at_once, cost, may_hold
from strop.search.timekeeper import ANCHOR
from strop.search.tuning import (
    BATCHES,
    Grid,
    Setting,
    explore,
    grid,
    keeps,
    knee,
    tuned,
    worth_trying,
)
from strop.search.typical import timing_inputs
from strop.search.workspace import Workspace
from strop.workers import ChildError

Attempt = Callable[[Recipe, bool, Sequence[OperatingPoint]], Trial]
"""Makes a trial of a recipe: whether it may claim equivalence, and how its setting was found."""

_SHARE, _SECONDS, _LONGEST = 0.1, 5.0, 60.0
"""What tuning is kept: a share of the budget, seconds a setting to choose from, and at most."""
_TRIES = 3
_ROUNDS = 5
_EQUIVALENTS, _OTHERS = 2, 2
_NEAR = 1.5
"""A finalist may cost so many times the best of its kind: settings rarely change more than that."""
_BATCH_SHARE = 0.05
"""Of the budget that finding the batch size of the race may take."""


def open_batch(workspace: Workspace, original: SessionSpec) -> int:
    """The batch size for a race whose user has left it open: where the original does best.

    The smallest within 3% of the original's most examples a second, one call at a time, within
    the limit on p99. So no candidate is called faster for what a larger batch alone would bring.
    """
    threads = original.placement.threads
    end = time.monotonic() + _BATCH_SHARE * workspace.clock.budget
    limit = workspace.target.max_p99_seconds
    conditions = Conditions(concurrent=at_once(workspace.task.goal))
    inputs = timing_inputs(workspace, 1)
    payload = workspace.payload_for(original)
    with Arena(inputs, seed=workspace.task.seed, conditions=conditions) as arena:
        error = arena.add("one", original, None if payload is None else payload.tobytes())
        if error is not None:
            raise error
        with Settings(workspace, arena, original, anchor="one", name="the original") as measure:
            points = explore(
                Setting(1, threads),
                Grid(batches=BATCHES, threads=(threads,)),
                measure,
                limit=limit,
                enough=lambda: time.monotonic() > end,
            )
    return knee(points, limit).batch if points else 1


def kept_for_tuning(workspace: Workspace, original: Built) -> float:
    """Seconds of the race that tuning is kept; 0 where there is nothing to choose."""
    at = Setting(workspace.target.batch, original.spec.placement.threads)
    choices = grid(workspace.target, batch_is_free=workspace.batch_is_free, streams=True, at=at)
    return min(_SHARE * workspace.clock.budget, _SECONDS * (choices.size - 1), _LONGEST)


def tune(
    workspace: Workspace, arena: Arena, trials: Sequence[Trial], original: Built, attempt: Attempt
) -> Iterator[Trial]:
    """Take the finalists of a race to the settings that suit them.

    What is better than where the race had it is attempted as a trial of its own: scored again, as
    another number of threads may round otherwise, and timed again. Given are the trials to be
    dropped instead, as they break the limit on p99 where the race had them.

    Parameters
    ----------
    trials
        Of the race, by number; `attempt` adds to them.
    """
    limit = workspace.target.max_p99_seconds
    for trial in finalists(trials, workspace):
        if workspace.clock.race_left <= 0:
            return
        try:
            built = build(workspace, trial.recipe) if trial.number else original
        except StropError:  # it was built before, but the cache has lost it since
            continue
        points = climb(workspace, arena, built, name=f"#{trial.number}")
        for point in worth_trying(points, limit)[:_TRIES]:
            found = attempt(tuned(trial.recipe, point), trial.equivalent, points)
            if found.status == "alive":
                break
        if points and not keeps(points[0], limit):
            reason = f"has a p99 of {points[0].p99.estimate * 1e3:.2f} ms: over --max-p99"
            yield trial.model_copy(update={"status": "dropped", "reason": reason})


def climb(workspace: Workspace, arena: Arena, built: Built, *, name: str) -> list[OperatingPoint]:
    """The settings of a candidate around the one that the race timed, as far as they gain.

    Empty where there is nothing to choose, or the candidate does not run.
    """
    deploy, target = built.recipe.deploy, workspace.target
    start = Setting(deploy.batch, built.spec.placement.threads, deploy.streams)
    choices = grid(
        target,
        batch_is_free=workspace.batch_is_free,
        streams=engines.get(deploy.engine).streams,
        at=start,
    )
    if choices.size == 1:
        return []
    with Settings(workspace, arena, built.spec, anchor=ANCHOR, name=name) as measure:
        return explore(
            start,
            choices,
            measure,
            limit=target.max_p99_seconds,
            enough=lambda: workspace.clock.race_left <= 0,
        )


def finalists(trials: Sequence[Trial], workspace: Workspace) -> list[Trial]:
    """The trials whose settings are worth tuning, the most important first.

    Of trials that differ in nothing but their settings only the best counts, and none that has
    been tuned already; of equivalents only the best of an engine. The best equivalent comes first:
    whatever is delivered is held against it.
    """
    goal, tolerance = workspace.task.goal, workspace.tolerance
    families: dict[str, Trial] = {}
    done = {_family(trial) for trial in trials if trial.evidence.points}
    for trial in sorted(trials, key=lambda trial: cost(trial, goal)):
        known = trial.status == "alive" and math.isfinite(cost(trial, goal))
        if known and may_hold(trial, tolerance):
            families.setdefault(_family(trial), trial)
    found = [trial for family, trial in families.items() if family not in done]
    chosen = []
    for equivalent, most in ((True, _EQUIVALENTS), (False, _OTHERS)):
        alike = [trial for trial in found if trial.equivalent == equivalent]
        if equivalent:  # the second on another engine: the first one's options matter less
            first = {it.recipe.deploy.engine: it for it in reversed(alike)}
            alike = sorted(first.values(), key=lambda trial: cost(trial, goal))
        near = [it for it in alike if cost(it, goal) <= _NEAR * cost(alike[0], goal)]
        chosen += list(enumerate(near[:most]))
    return [trial for _, trial in sorted(chosen, key=lambda item: item[0])]


class Settings:
    """One candidate at several settings, each beside the anchor of an arena.

    Settings of equal threads and calls at once share a process, which is fed other batches.

    Parameters
    ----------
    anchor
        Name of the session in `arena` that all are compared with; its batch is the arena's.
    name
        What the arena calls the candidate, with its setting behind.
    """

    def __init__(
        self, workspace: Workspace, arena: Arena, spec: SessionSpec, *, anchor: str, name: str
    ) -> None:
        self._workspace = workspace
        self._arena = arena
        self._spec = spec
        self._anchor = anchor
        self._name = name
        self._living: tuple[str, tuple[int, int]] | None = None
        self._rate = 0.0

    def __call__(self, setting: Setting) -> OperatingPoint | None:
        """What a setting does; None where it does not run."""
        name = f"{self._name}: {setting}"
        self._workspace.say(f"timing {name}")
        with self._workspace.clock.phase("time"):
            if self._enter(name, setting) is not None:
                return None
            for _ in range(_ROUNDS):
                self._arena.round()
            timings = self._arena.timings()
        mine, theirs = timings[name], timings[self._anchor]
        if mine.error is not None or not len(mine.rounds):
            self._living = None
            return None
        latency = summarise(
            [mine.calls], batch=setting.batch, threads=setting.threads, streams=setting.streams
        )
        # By the rounds that both have, so that drift between two settings cancels.
        beside = theirs.rounds[-len(mine.rounds) :]
        if len(beside) != len(mine.rounds):
            return None
        ratio = math.exp(float(np.median(np.log(beside / mine.rounds))))
        # One rate of the anchor for all: what it was at the first setting.
        batch = self._workspace.target.batch
        self._rate = self._rate or batch / float(np.median(beside))
        # Never more than the clock says: two virtual cores that come to share a real one slow an
        # anchor of two threads, and no candidate of one, which would gain by that.
        throughput = min(ratio * self._rate, batch / float(np.median(mine.rounds)))
        return OperatingPoint(
            batch=setting.batch,
            threads=setting.threads,
            streams=setting.streams,
            p50_seconds=latency.p50.estimate,
            p99=latency.p99,
            throughput=throughput,
            calls=latency.calls,
        )

    def close(self) -> None:
        """End the process that is held."""
        if self._living is not None:
            self._arena.drop(self._living[0])
            self._living = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _enter(self, name: str, setting: Setting) -> ChildError | None:
        workspace = self._workspace
        inputs = timing_inputs(workspace, setting.batch)
        where = setting.threads, setting.streams
        if self._living is not None and self._living[1] == where:
            error = self._arena.feed(self._living[0], name, inputs)
        else:
            self.close()
            payload = workspace.payload_for(self._spec)
            error = self._arena.add(
                name,
                _placed(self._spec, setting),
                None if payload is None else payload.tobytes(),
                inputs,
            )
        self._living = None if error is not None else (name, where)
        return error


def _placed(spec: SessionSpec, setting: Setting) -> SessionSpec:
    placement = spec.placement.model_copy(
        update={"threads": setting.threads, "streams": setting.streams}
    )
    return spec.model_copy(update={"placement": placement})


def _family(trial: Trial) -> str:
    """All that a trial is but its settings."""
    recipe = trial.recipe
    plain = recipe.deploy.model_copy(update={"threads": None, "streams": 1, "batch": 1})
    return recipe.model_copy(update={"deploy": plain}).to_json()
