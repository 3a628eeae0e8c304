"""A recorded search as a table of recipes, on which strategies are replayed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from strop import engines, techniques
from strop.records import (
    Evidence,
    Recipe,
    Result,
    SearchStarted,
    Trial,
    TrialFinished,
    canonical_json,
)
from strop.search import strategies
from strop.search.journal import read_journal
from strop.search.space import JointSpace

_TWIN = re.compile(r"same artefact as #(\d+)")


class Run(NamedTuple):
    """What one replay took until it had a near-best recipe."""

    seconds: float
    trials: int


@dataclass(frozen=True)
class Table:
    """Every recorded trial, the original's own first.

    Attributes
    ----------
    candidates
        Recipes in the whole space, recorded or not.
    shared
        Seconds that applying a prefix of steps took, by the prefix: paid once a search.
    own
        Seconds of each trial without those, by number.
    """

    trials: tuple[Trial, ...]
    candidates: int
    tolerance: float
    shared: dict[str, float]
    own: dict[int, float]

    @property
    def best(self) -> Trial:
        """The fastest that holds on *search*."""
        return max(self.trials, key=lambda trial: value(trial, self.tolerance))

    @property
    def seconds(self) -> float:
        """What trying all of it took."""
        return sum(self.own.values()) + sum(self.shared.values())

    def replay(self, strategy: str, seed: int, near: float) -> Run:
        """Let a strategy choose until it has a recipe of at least `near` the best's speed."""
        chooser, known = strategies.get(strategy), {t.recipe.id: t for t in self.trials}
        space = _space(self.trials)
        enough = near * value(self.best, self.tolerance)
        history, scored = [self.trials[0]], {0}
        applied: set[str] = set()
        seconds = self.own[0]
        while value(history[-1], self.tolerance) < enough:
            recipe = chooser.propose(space, history, tolerance=self.tolerance, seed=seed)
            assert recipe is not None, "the best is in the table, so it comes up in the end"
            found = known[recipe.id]
            prefixes = [key for key in _prefixes(recipe) if key in self.shared]
            seconds += sum(self.shared[key] for key in prefixes if key not in applied)
            applied.update(prefixes)
            # Of recipes that build the same artefact, the one that comes first is scored and timed.
            root = self.trials[_twin(found, default=found.number)]
            seconds += self.own[found.number if root.number in scored else root.number]
            trial = root
            if root.number in scored:
                seconds -= sum(found.seconds.get(stage, 0.0) for stage in ("evaluate", "time"))
                trial = found.model_copy(update={"status": "dropped", "evidence": Evidence()})
            scored.add(root.number)
            history.append(trial.model_copy(update={"number": len(history), "recipe": recipe}))
        return Run(seconds, len(history) - 1)


def read(folder: Path) -> Table:
    """The table that the journal in a search's output folder holds."""
    candidates = 0
    found: dict[int, Trial] = {}
    for event in read_journal(folder / "journal.jsonl"):
        if isinstance(event, SearchStarted):
            candidates = event.candidates
        elif isinstance(event, TrialFinished):
            found[event.trial.number] = event.trial
    trials = tuple(found[number] for number in sorted(found))
    shared, own = _costs(trials)
    tolerance = Result.read(folder / "result.json").tolerance
    return Table(trials, candidates, tolerance, shared, own)


def value(trial: Trial, tolerance: float) -> float:
    """How many times faster than the anchor; 0 for what failed, was dropped, or does not hold."""
    quality = trial.evidence.search_quality
    if trial.status in ("failed", "dropped") or quality is None:
        return 0.0
    if not trial.equivalent and quality.drop.estimate >= tolerance:
        return 0.0
    ratios = [it.ratio.estimate for it in trial.evidence.speedups if it.against == "anchor"]
    return ratios[0] if ratios else 0.0


def _costs(trials: Sequence[Trial]) -> tuple[dict[str, float], dict[int, float]]:
    """Seconds by prefix of steps and by trial: what is built once, taken apart from the rest.

    The first recipe with a prefix pays for applying it; its build beyond the median of those that
    found all their prefixes applied is the prefix's. A prefix that fails is never kept, so every
    recipe with it pays again.
    """
    plain: dict[str, list[float]] = {}
    first: dict[int, list[str]] = {}
    applied: set[str] = set()
    for trial in trials:
        new = [key for key in _prefixes(trial.recipe) if key not in applied]
        if trial.status == "failed" and trial.stage == "build":
            continue
        if new:
            first[trial.number] = new
            applied.update(new)
        else:
            engine = trial.recipe.deploy.engine
            plain.setdefault(engine, []).append(trial.seconds.get("build", 0.0))
    shared: dict[str, float] = {}
    own: dict[int, float] = {}
    for trial in trials:
        own[trial.number] = sum(trial.seconds.values())
        if trial.number in first:
            usual = float(np.median(plain.get(trial.recipe.deploy.engine, [0.0])))
            extra = max(0.0, trial.seconds.get("build", 0.0) - usual)
            own[trial.number] -= extra
            for key in first[trial.number]:
                shared[key] = extra / len(first[trial.number])
    return shared, own


def _prefixes(recipe: Recipe) -> Iterator[str]:
    steps = [step.to_dict() for step in recipe.steps]
    for end in range(1, len(steps) + 1):
        yield canonical_json(steps[:end])


def _twin(trial: Trial, default: int) -> int:
    """The number of the trial that built the same artefact before."""
    found = _TWIN.search(trial.reason)
    return int(found[1]) if found else default


def _space(trials: Sequence[Trial]) -> JointSpace:
    recipes = sorted(
        (trial.recipe for trial in trials),
        key=lambda recipe: (len(recipe.steps), str(recipe)),  # as `joint_space` orders them
    )
    return JointSpace(tuple(recipes), frozenset(r.id for r in recipes if _is_exact(r)), ())


def _is_exact(recipe: Recipe) -> bool:
    steps = all(techniques.get(step.technique).exact for step in recipe.steps)
    return steps and engines.get(recipe.deploy.engine).is_exact(recipe.deploy.options)
