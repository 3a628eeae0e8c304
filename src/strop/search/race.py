"""The race: decides which trial runs next, and how far each is taken.

Costs rise from static checks over builds, quality on few examples and quality on all of *search*
to timing, so each stage drops what is confidently outside the tolerance, and only the living are
timed: against one anchor, in alternation, each in a process of its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from strop.errors import StropError
from strop.measure import Arena, Conditions, footprint
from strop.proof import ratio_interval
from strop.records import (
    BestChanged,
    Evidence,
    Interval,
    OperatingPoint,
    Recipe,
    Speedup,
    Trial,
    TrialFinished,
    TrialStarted,
    Warned,
)
from strop.search.builder import Built, StepFailed, build, operator_counts
from strop.search.evaluator import Evaluator, Scored, drop_bounds, quality
from strop.search.foresight import Foresight, patience
from strop.search.objective import at_once, cost, may_hold, pareto, speed
from strop.search.operating import kept_for_tuning, tune
from strop.search.purse import Purse, shares, untrained
from strop.search.space import JointSpace
from strop.search.spending import screened
from strop.search.strategies import Strategy
from strop.search.typical import timing_inputs
from strop.search.workspace import Workspace, reason_of
from strop.workers import ChildError

EQUIVALENT_ERROR = 1e-3
"""Largest relative error of an equivalent candidate's outputs."""

_SCREEN = 128
_SURE_AT_SCREEN, _SURE_AT_ALL = 3.0, 2.33
_ROUNDS, _MORE_ROUNDS = 5, 6
_PATIENCE = 20
_TAIL_CALLS, _TAIL_ROUNDS = 400, 30
"""So many calls bound p99 from above; rounds beyond so many are not spent on it."""


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
        self.finished = False
        """Whether all was tried that was worth it, before the race's time was up."""
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
        self._foresight = Foresight()
        for trial in history:
            self._purse.note(trial, workspace.tolerance)
            self._foresight.note(trial)

    @property
    def rejected(self) -> tuple[tuple[str, str], ...]:
        """Engines and techniques that take no part, and why."""
        return self._space.rejected

    def run(self) -> None:
        """Race until the space, the patience or the race's share of the budget is used up."""
        workspace = self._workspace
        inputs = timing_inputs(workspace, workspace.target.batch)
        conditions = Conditions(concurrent=at_once(workspace.task.goal))
        kept = kept_for_tuning(workspace, self._original)
        with Arena(inputs, seed=workspace.task.seed, conditions=conditions) as self._arena:
            self._try_original()
            self._explore(self._purse.affordable, kept)
            if workspace.train_rest:
                self._stale = 0
                self._explore(self._purse.taught_on, kept)
            if kept and self._anchored:
                self._tune()
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

    def _explore(self, narrowed: Callable[[JointSpace, float], JointSpace], kept: float) -> None:
        """Try what the strategy proposes of the space as `narrowed` to the race's time left."""
        workspace = self._workspace
        while workspace.clock.race_left > kept and self._stale < _PATIENCE:
            left = workspace.clock.race_left - kept
            recipe = self._strategy.propose(
                # Training may take the time that tuning is kept: it is worth more.
                narrowed(self._foresight.in_time(self._space, left), workspace.clock.race_left),
                self.trials,
                tolerance=workspace.tolerance,
                seed=workspace.task.seed,
            )
            if recipe is None:
                self.finished = True
                return
            self._finish(self._try(recipe, exact=self._space.is_exact(recipe)))
        self.finished = self._stale >= _PATIENCE

    def _tune(self) -> None:
        """Find the batch size, threads and calls at once that suit the best few."""
        assert self._arena is not None
        workspace = self._workspace

        def attempt(recipe: Recipe, exact: bool, points: Sequence[OperatingPoint]) -> Trial:
            trial = self._try(recipe, exact=exact, points=points)
            self._finish(trial)
            return trial

        for dropped in tune(workspace, self._arena, self.trials, self._original, attempt):
            self.trials[dropped.number] = dropped
            workspace.emit(TrialFinished(trial=dropped, elapsed=workspace.clock.elapsed))

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

    def _try(self, recipe: Recipe, *, exact: bool, points: Sequence[OperatingPoint] = ()) -> Trial:
        """Take one recipe as far as it deserves.

        Parameters
        ----------
        exact
            Whether it may claim equivalence.
        points
            How its settings were found, where they were tuned.
        """
        workspace = self._workspace
        number = len(self.trials)
        workspace.emit(TrialStarted(number=number, recipe_text=str(recipe)))
        trial = Trial(number=number, recipe=recipe, status="failed", stage="build")
        seconds: dict[str, float] = {}

        def outcome(status: str, stage: str, reason: str = "", **more: object) -> Trial:
            update = {"status": status, "stage": stage, "reason": reason, "seconds": dict(seconds)}
            return trial.model_copy(update=update | more)

        allowed = patience(recipe, workspace.clock.race_left)
        start, trained = time.monotonic(), workspace.clock.phases.get("train", 0.0)

        def took() -> None:
            whole = time.monotonic() - start
            train = workspace.clock.phases.get("train", 0.0) - trained
            seconds["build"] = whole - train
            if train:
                seconds["train"] = train

        try:
            with workspace.clock.phase("build"):
                built = build(workspace, recipe, timeout=allowed)
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
            scored = self._score(built, allowed)
        except StropError as error:
            seconds["evaluate"] = time.monotonic() - start
            return outcome("failed", "evaluate", reason_of(error))
        seconds["evaluate"] = time.monotonic() - start
        self.drops[number] = scored.drops
        found = quality(workspace, scored)
        equivalent = exact and found.changed == 0 and found.max_relative_error <= EQUIVALENT_ERROR
        counts = operator_counts(built.model)
        evidence = Evidence(search_quality=found, points=tuple(points), **counts)
        trial = trial.model_copy(update={"equivalent": equivalent, "evidence": evidence})
        if not equivalent and (lost := self._outside(scored)):
            return outcome("dropped", "evaluate" if scored.n > _SCREEN else "screen", lost)
        start = time.monotonic()
        if exact:
            self._raise_anchor(built)
        timed = self._timed(outcome("alive", "time"), built)
        seconds["time"] = time.monotonic() - start
        return timed.model_copy(update={"seconds": seconds})

    def _score(self, built: Built, timeout: float) -> Scored:
        """On few examples, then on all unless those few were enough to drop it."""
        workspace = self._workspace
        rows = len(workspace.roles["search"])
        if workspace.metric.kind != "set" and rows > 2 * _SCREEN:
            first = self._evaluator.score(built, "search", limit=_SCREEN, timeout=timeout)
            if self._outside(first):
                return first
        return self._evaluator.score(built, "search", timeout=timeout)

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
        batch = trial.recipe.deploy.batch
        with workspace.clock.phase("time"):
            error = arena.add(
                name,
                built.spec,
                None if payload is None else payload.tobytes(),
                None if batch == workspace.target.batch else timing_inputs(workspace, batch),
            )
            ratio = None
            if error is None:
                ratio = self._rounds(name, _ROUNDS)
                if ratio is not None and ratio.high > self._best:
                    ratio = self._rounds(name, _MORE_ROUNDS)
                if trial.evidence.points and workspace.target.max_p99_seconds is not None:
                    ratio = self._tail(name) or ratio
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
            batch=batch,
            concurrent=at_once(workspace.task.goal),
        )
        if self._energy_kind is None and spending["energy"] is not None:
            self._energy_kind = spending["energy"].kind
        evidence = trial.evidence.model_copy(
            update={
                **spending,
                "memory": memory,
                "speedups": (
                    Speedup(
                        against="anchor", batch=workspace.target.batch, ratio=ratio, launches=1
                    ),
                ),
            }
        )
        return self._within_constraints(trial.model_copy(update={"evidence": evidence}))

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

    def _tail(self, name: str) -> Interval | None:
        """Rounds until p99 has an upper bound."""
        assert self._arena is not None
        ratio = None
        for _ in range(_TAIL_ROUNDS):
            if len(self._arena.timings()[name].calls) >= _TAIL_CALLS:
                break
            ratio = self._rounds(name, 1)
        return ratio

    def _within_constraints(self, trial: Trial) -> Trial:
        target, memory = self._workspace.target, trial.evidence.memory
        (latency,) = trial.evidence.latency
        limit, reason = target.max_p99_seconds, ""
        # A race's few calls tell p99 roughly: only what is surely above goes, unless it was tuned
        # to keep the limit and was timed for longer.
        p99 = latency.p99.estimate if trial.evidence.points else latency.p99.low
        if limit is not None and latency.p50.estimate > limit:
            reason = f"takes {latency.p50.estimate * 1e3:.2f} ms: over --max-p99"
        elif limit is not None and p99 > limit:
            reason = f"has a p99 of {latency.p99.estimate * 1e3:.2f} ms: over --max-p99"
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
        self._foresight.note(trial)
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


def _deployed(recipe: Recipe) -> str:
    """The deployment alone: the same artefact under other options is another candidate."""
    return recipe.deploy.to_json()
