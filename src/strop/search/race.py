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
from strop.measure import Arena, Conditions
from strop.records import (
    BestChanged,
    Evidence,
    OperatingPoint,
    Recipe,
    Trial,
    TrialFinished,
    TrialStarted,
    Warned,
)
from strop.search.builder import Built, StepFailed, build, operator_counts
from strop.search.evaluator import Evaluator, Scored, drop_bounds, quality
from strop.search.foresight import Foresight, patience
from strop.search.heat import heats, kept_for_heat
from strop.search.objective import at_once, cost, may_hold, pareto, speed
from strop.search.operating import kept_for_tuning, tune
from strop.search.purse import Purse, shares, untrained
from strop.search.space import JointSpace
from strop.search.strategies import Strategy
from strop.search.timekeeper import Timekeeper
from strop.search.typical import timing_inputs
from strop.search.workspace import Workspace, reason_of

EQUIVALENT_ERROR = 1e-3
"""Largest relative error of an equivalent candidate's outputs."""

_SCREEN = 128
_SURE_AT_SCREEN, _SURE_AT_ALL = 3.0, 2.33
_PATIENCE = 20


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
        self._best = 1.0
        self._keeper: Timekeeper
        self._stale = 0
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
        heat, tuning = kept_for_heat(workspace), kept_for_tuning(workspace, self._original)
        kept = heat + tuning
        with Arena(inputs, seed=workspace.task.seed, conditions=conditions) as arena:
            self._keeper = Timekeeper(workspace, arena, self.trials)
            self._try_original()
            self._explore(self._purse.affordable, kept)
            if workspace.train_rest:
                self._stale = 0
                self._explore(self._purse.taught_on, kept)
            if heat and self._keeper.anchored:
                self._heat(heat)
            if tuning and self._keeper.anchored:
                self._tune()
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

    def _heat(self, kept: float) -> None:
        """Time the fastest side by side, so that none is the best by the luck of its minute."""
        workspace = self._workspace

        def retimed(trial: Trial, built: Built, name: str) -> Trial:
            return self._keeper.told(trial, built, name, trial.evidence.memory)

        before = self._leader()
        for trial in heats(
            workspace, self._keeper.arena, self.trials, self._original, retimed, kept
        ):
            self.trials[trial.number] = trial
            workspace.emit(TrialFinished(trial=trial, elapsed=workspace.clock.elapsed))
        leader = self._leader()
        if leader is not None and before is not None and leader.number != before.number:
            self._lead(leader)

    def _tune(self) -> None:
        """Find the batch size, threads and calls at once that suit the best few."""
        workspace = self._workspace

        def attempt(recipe: Recipe, exact: bool, points: Sequence[OperatingPoint]) -> Trial:
            trial = self._try(recipe, exact=exact, points=points)
            self._finish(trial)
            return trial

        for dropped in tune(workspace, self._keeper.arena, self.trials, self._original, attempt):
            self.trials[dropped.number] = dropped
            workspace.emit(TrialFinished(trial=dropped, elapsed=workspace.clock.elapsed))

    def _try_original(self) -> None:
        """Trial 0; on a resumed run it is only loaded again, as the anchor of new timings."""
        if self._original.recipe.deploy.engine != "torch":
            self._keeper.raise_anchor(self._original)
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
        self._finish(self._keeper.time(trial, self._original, self._best))

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
            failed = error if isinstance(error, StepFailed) else None
            more = {"failed_step": failed.index, "stopped": failed.stopped} if failed else {}
            return outcome("failed", "build", reason_of(error), **more)
        took()
        trial = trial.model_copy(update={"stopped": built.stopped})
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
            self._keeper.raise_anchor(built)
        timed = self._keeper.time(outcome("alive", "time"), built, self._best)
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
            self._lead(trial)

    def _leader(self) -> Trial | None:
        """The best of the living that may hold."""
        goal, tolerance = self._workspace.task.goal, self._workspace.tolerance
        living = [it for it in self.trials if it.status == "alive" and may_hold(it, tolerance)]
        return min(living, key=lambda trial: cost(trial, goal), default=None)

    def _lead(self, trial: Trial) -> None:
        """Say that `trial` is the best so far."""
        ratio = speed(trial)
        if ratio is None:
            return
        self._workspace.emit(
            BestChanged(
                number=trial.number,
                recipe_text=str(trial.recipe),
                seconds=self._workspace.clock.elapsed,
                speedup=ratio,
            )
        )


def _deployed(recipe: Recipe) -> str:
    """The deployment alone: the same artefact under other options is another candidate."""
    return recipe.deploy.to_json()
