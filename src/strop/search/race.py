"""The race: decides which trial runs next, and how far each is taken.

Costs rise from static checks over builds, quality on few examples and quality on all of *search*
to timing, so each stage drops what is confidently outside the tolerance, and only the living are
timed: against one anchor, in alternation, each in a process of its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from strop.errors import StropError
from strop.measure import Arena, Conditions, footprint
from strop.proof import ratio_interval
from strop.records import (
    BestChanged,
    Evidence,
    Interval,
    Recipe,
    Speedup,
    Trial,
    TrialFinished,
    TrialStarted,
    Warned,
)
from strop.search.builder import Built, StepFailed, build, operator_counts, trains
from strop.search.evaluator import Evaluator, Scored, drop_bounds, quality
from strop.search.objective import at_once, cost, may_hold, pareto, speed
from strop.search.purse import Purse, shares, untrained
from strop.search.space import JointSpace
from strop.search.spending import screened
from strop.search.strategies import Strategy
from strop.search.workspace import Workspace, reason_of
from strop.workers import ChildError

EQUIVALENT_ERROR = 1e-3
"""Largest relative error of an equivalent candidate's outputs."""

_SCREEN = 128
_SURE_AT_SCREEN, _SURE_AT_ALL = 3.0, 2.33
_ROUNDS, _MORE_ROUNDS = 5, 6
_PATIENCE = 20
_SHARE, _SHORTEST = 0.25, 20.0
"""What one trial may take of the race's time left, and at least in seconds: one slow build must
not be all that is tried. Training is meant to take long and has limits of its own."""
_TYPICAL = 64


class Race:
    """One search's trials, first the original's own.

    Parameters
    ----------
    history
        Trials of an interrupted run, which are not run again.
    equivalent_only
        Only recipes that may claim equivalence are tried.
    """

    def __init__(
        self,
        workspace: Workspace,
        space: JointSpace,
        strategy: Strategy,
        evaluator: Evaluator,
        original: Built,
        history: Sequence[Trial] = (),
        *,
        equivalent_only: bool = False,
    ) -> None:
        self._workspace = workspace
        self._strategy = strategy
        self._evaluator = evaluator
        self._original = original
        if equivalent_only:
            kept = tuple(recipe for recipe in space.recipes if space.is_exact(recipe))
            space = JointSpace(kept, space.exact, space.rejected)
        self._space = space
        self.trials: list[Trial] = list(history)
        self.drops: dict[int, np.ndarray] = {}
        self._digests = {
            (trial.artifact_digest, _deployed(trial.recipe)): trial.number
            for trial in history
            if trial.artifact_digest
        }
        self._arena: Arena | None = None
        self._anchored: set[int] = set()
        self._best = 1.0
        self._stale = 0
        self._energy_kind = next(
            (trial.evidence.energy.kind for trial in history if trial.evidence.energy), None
        )
        self._purse = Purse(workspace.train_seconds, shares(space))
        workspace.share = self._purse.share
        for trial in history:
            self._purse.note(trial, workspace.tolerance)

    @property
    def rejected(self) -> tuple[tuple[str, str], ...]:
        """Engines and techniques that take no part, and why."""
        return self._space.rejected

    def run(self) -> None:
        """Race until the space, the patience or the race's share of the budget is used up."""
        workspace = self._workspace
        inputs = timing_inputs(workspace, workspace.task.batch)
        conditions = Conditions(concurrent=at_once(workspace.task.goal))
        with Arena(inputs, seed=workspace.task.seed, conditions=conditions) as self._arena:
            self._try_original()
            while workspace.clock.race_left > 0 and self._stale < _PATIENCE:
                recipe = self._strategy.propose(
                    self._purse.affordable(self._space, workspace.clock.race_left),
                    self.trials,
                    tolerance=workspace.tolerance,
                    seed=workspace.task.seed,
                )
                if recipe is None:
                    break
                self._finish(self._try(recipe))
        self._arena = None
        if skipped := untrained(self._space, self.trials):
            workspace.emit(
                Warned(
                    message=f"training of {self._purse.seconds:.0f} s, "
                    f"{self._purse.share:.0f} s for each step, was not enough "
                    f"to try {', '.join(skipped)}"
                )
            )
        on_front = set(pareto(self.trials))
        self.trials = [
            trial.model_copy(update={"status": "front"})
            if trial.number in on_front and trial.status == "alive"
            else trial
            for trial in self.trials
        ]

    def _try_original(self) -> None:
        """Trial 0; on a resumed run it is only loaded again, as the anchor of new timings."""
        assert self._arena is not None
        if self._original.recipe.deploy.engine != "torch":
            self._raise_anchor(self._original)
        if self.trials:
            return
        recipe = self._original.recipe
        self._workspace.emit(TrialStarted(number=0, recipe_text=str(recipe)))
        start = time.monotonic()
        scored = self._evaluator.score_original("search")
        seconds = {"evaluate": time.monotonic() - start}
        evidence = Evidence(search_quality=quality(self._workspace, scored))
        self.drops[0] = scored.drops
        trial = Trial(
            number=0,
            recipe=recipe,
            status="alive",
            stage="evaluate",
            equivalent=True,
            artifact_digest=self._original.digest,
            evidence=evidence,
            seconds=seconds,
        )
        self._finish(self._timed(trial, self._original))

    def _raise_anchor(self, built: Built) -> None:
        """Let `built` be what all others are timed against, if nothing is yet."""
        assert self._arena is not None
        if not self._anchored:
            workspace = self._workspace
            with workspace.clock.phase("time"):
                error = self._arena.add("anchor", built.spec, None)
            if error is not None:
                raise error
            self._anchored.add(len(self.trials))

    def _try(self, recipe: Recipe) -> Trial:
        """Take one recipe as far as it deserves."""
        workspace = self._workspace
        number = len(self.trials)
        workspace.emit(TrialStarted(number=number, recipe_text=str(recipe)))
        exact = self._space.is_exact(recipe)
        trial = Trial(number=number, recipe=recipe, status="failed", stage="build")
        seconds: dict[str, float] = {}

        def outcome(status: str, stage: str, reason: str = "", **more: object) -> Trial:
            update = {"status": status, "stage": stage, "reason": reason, "seconds": dict(seconds)}
            return trial.model_copy(update=update | more)

        patience = max(_SHORTEST, workspace.clock.race_left * (1.0 if trains(recipe) else _SHARE))
        start, trained = time.monotonic(), workspace.clock.phases.get("train", 0.0)

        def took() -> None:
            whole = time.monotonic() - start
            train = workspace.clock.phases.get("train", 0.0) - trained
            seconds["build"] = whole - train
            if train:
                seconds["train"] = train

        try:
            with workspace.clock.phase("build"):
                built = build(workspace, recipe, timeout=patience)
        except StropError as error:
            took()
            step = error.index if isinstance(error, StepFailed) else None
            return outcome("failed", "build", reason_of(error), failed_step=step)
        took()
        key = (built.digest, _deployed(recipe))
        if key in self._digests:
            twin = self._digests[key]
            return outcome("dropped", "build", f"builds to the same artefact as #{twin}")
        self._digests[key] = number
        trial = trial.model_copy(update={"artifact_digest": built.digest})

        start = time.monotonic()
        try:
            scored = self._score(built, patience)
        except StropError as error:
            seconds["evaluate"] = time.monotonic() - start
            return outcome("failed", "evaluate", reason_of(error))
        seconds["evaluate"] = time.monotonic() - start
        self.drops[number] = scored.drops
        found = quality(workspace, scored)
        equivalent = exact and found.changed == 0 and found.max_relative_error <= EQUIVALENT_ERROR
        evidence = Evidence(search_quality=found, **operator_counts(built.model))
        trial = trial.model_copy(update={"equivalent": equivalent, "evidence": evidence})
        if not equivalent and (lost := self._outside(scored)):
            return outcome("dropped", "evaluate" if scored.n > _SCREEN else "screen", lost)
        start = time.monotonic()
        if exact:
            self._raise_anchor(built)
        timed = self._timed(outcome("alive", "time"), built)
        seconds["time"] = time.monotonic() - start
        return timed.model_copy(update={"seconds": seconds})

    def _score(self, built: Built, patience: float) -> Scored:
        """On few examples, then on all unless those few were enough to drop it."""
        workspace = self._workspace
        rows = len(workspace.roles["search"])
        if workspace.metric.kind != "set" and rows > 2 * _SCREEN:
            first = self._evaluator.score(built, "search", limit=_SCREEN, timeout=patience)
            if self._outside(first):
                return first
        return self._evaluator.score(built, "search", timeout=patience)

    def _outside(self, scored: Scored) -> str:
        """Why the candidate is confidently outside the tolerance; empty when it is not."""
        tolerance = self._workspace.tolerance
        if scored.set_values is not None:
            before, after = scored.set_values
            lost = before - after
            low = lost
        else:
            z = _SURE_AT_SCREEN if scored.n <= _SCREEN else _SURE_AT_ALL
            low, _ = drop_bounds(scored.drops, z)
            lost = float(scored.drops.mean())
        if low <= tolerance:
            return ""
        return f"loses {lost:.2%} on {scored.n} examples: outside {tolerance:.2%}"

    def _timed(self, trial: Trial, built: Built) -> Trial:
        """Time a candidate beside the anchor: a few rounds, more unless it is clearly slower."""
        assert self._arena is not None
        workspace, arena = self._workspace, self._arena
        # A module has no file of its own worth weighing: its ONNX form holds the same weights.
        weighed = built.model.forms.get("onnx", built.folder / "-").parent
        memory = footprint(weighed if built.spec.engine == "torch" else built.folder)
        if not self._anchored:
            evidence = trial.evidence.model_copy(update={"memory": memory})
            return trial.model_copy(update={"evidence": evidence})
        name = f"{trial.number}"
        payload = workspace.payload_for(built.spec)
        with workspace.clock.phase("time"):
            error = arena.add(name, built.spec, None if payload is None else payload.tobytes())
            ratio = None
            if error is None:
                ratio = self._rounds(name, _ROUNDS)
                if ratio is not None and ratio.high > self._best:
                    ratio = self._rounds(name, _MORE_ROUNDS)
                memory = memory.model_copy(update={"peak": arena.memory_of(name)})
            timings = arena.timings()
            timing = timings[name]
            arena.drop(name)
        failure: ChildError | None = error or timing.error
        if failure is not None or ratio is None:
            why = reason_of(failure) if failure else "the budget ended before it was timed"
            return trial.model_copy(update={"status": "failed", "stage": "time", "reason": why})
        spending = screened(
            workspace.target,
            built.spec,
            timing,
            timings["anchor"],
            kind=self._energy_kind,
            concurrent=at_once(workspace.task.goal),
        )
        if self._energy_kind is None and spending["energy"] is not None:
            self._energy_kind = spending["energy"].kind
        evidence = trial.evidence.model_copy(
            update={
                **spending,
                "memory": memory,
                "speedups": (
                    Speedup(against="anchor", batch=workspace.task.batch, ratio=ratio, launches=1),
                ),
            }
        )
        trial = trial.model_copy(update={"evidence": evidence})
        # Calls that run at once each take longer than the time between two that end.
        return self._within_constraints(trial, timing.seconds * built.spec.placement.streams)

    def _rounds(self, name: str, count: int) -> Interval | None:
        """Ratio of the anchor's time over `name`'s, over all rounds so far."""
        assert self._arena is not None
        for _ in range(count):
            self._arena.round()
        timings = self._arena.timings()
        mine = timings[name].rounds
        theirs = timings["anchor"].rounds[-len(mine) :] if len(mine) else mine
        if len(mine) < 2 or len(mine) != len(theirs):
            return None
        estimate, low, high = ratio_interval(np.log(theirs / mine), 0.95, "t")
        return Interval(estimate=estimate, low=low, high=high)

    def _within_constraints(self, trial: Trial, seconds: float) -> Trial:
        target, memory = self._workspace.target, trial.evidence.memory
        reason = ""
        if target.max_p99_seconds is not None and seconds > target.max_p99_seconds:
            reason = f"takes {seconds * 1e3:.2f} ms: over --max-p99"
        elif target.max_memory_bytes and memory and (memory.peak or 0) > target.max_memory_bytes:
            reason = f"holds {(memory.peak or 0) / 1e6:.0f} MB: over --max-memory"
        if not reason:
            return trial
        return trial.model_copy(update={"status": "dropped", "stage": "time", "reason": reason})

    def _finish(self, trial: Trial) -> None:
        """Write the trial down, and say so when it is the best so far."""
        self.trials.append(trial)
        workspace = self._workspace
        self._purse.note(trial, workspace.tolerance)
        workspace.emit(TrialFinished(trial=trial, elapsed=workspace.clock.elapsed))
        ratio = speed(trial)
        self._stale += 1
        tolerance = workspace.tolerance
        if trial.status != "alive" or ratio is None or not may_hold(trial, tolerance):
            return
        goal = workspace.task.goal
        others = [
            cost(other, goal)
            for other in self.trials[:-1]
            if other.status == "alive" and may_hold(other, tolerance)
        ]
        if cost(trial, goal) < min(others, default=math.inf):
            self._stale = 0 if cost(trial, goal) < 0.98 * min(others, default=math.inf) else 1
            self._best = max(self._best, ratio)
            seconds = workspace.clock.elapsed
            workspace.emit(
                BestChanged(
                    number=trial.number,
                    recipe_text=str(trial.recipe),
                    seconds=seconds,
                    speedup=ratio,
                )
            )


def timing_inputs(workspace: Workspace, batch: int) -> dict[str, np.ndarray]:
    """One batch of real examples of *search*, of typical length where lengths differ.

    Padding shows as zeros in integer inputs (ids, masks); the examples nearest to the median
    count of other values are taken, so that a technique that skips padding is neither flattered
    nor slighted by the luck of the first rows.
    """
    dataset = workspace.roles["search"]
    rows = np.arange(min(_TYPICAL, len(dataset)))
    inputs = dataset.inputs(rows)
    sizes = sum(
        np.count_nonzero(values.reshape(len(rows), -1), axis=1)
        for values in inputs.values()
        if np.issubdtype(values.dtype, np.integer)
    )
    if isinstance(sizes, np.ndarray):
        order = np.argsort(np.abs(sizes - np.median(sizes)), kind="stable")
        rows = rows[order]
    return dataset.inputs(rows[np.arange(batch) % len(rows)])


def _deployed(recipe: Recipe) -> str:
    """The deployment alone: the same artefact under other options is another candidate."""
    return recipe.deploy.to_json()
