"""What training may cost: a purse of its own beside the search's budget.

A trained step takes minutes where others take seconds. Were both paid from one purse, a strategy
that counts improvement a second would train nothing until all else is tried, and one that does
not would train everything. So training has its own seconds, dealt out in equal shares, and a step
is trained once whatever follows it. Time that is left when all else has been tried may go to the
students whose training had to stop for want of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from strop import techniques
from strop.records import Recipe, Step, Trial
from strop.search.space import JointSpace
from strop.techniques import Technique

SHARES = 3
"""How many trained steps the purse pays for in full; those that end early leave room for more.
Where fewer can be had, each gets more."""

_HOPELESS = 4.0  # tolerances: more than what a lossy step after it would explain
_OVERHEAD = 1.15
_EXPORT_SECONDS = 20.0
_CUT_SHORT = "time"  # why training stopped that would have gone on
_SECONDS = "seconds"  # what a step that goes on with another's training says, and no other
_REST, _LEAST_REST = 0.6, 0.25
"""Of the race's time left, for training on (what follows the step has to be tried as well); and
the least of a share that it is worth."""


class Purse:
    """The seconds for training, and what they can still pay for.

    Parameters
    ----------
    seconds
        For all trained steps together.
    shares
        Among how many steps they are dealt out.
    """

    def __init__(self, seconds: float, shares: int = SHARES) -> None:
        self.seconds = seconds
        self.share = seconds / shares
        self._trained: set[str] = set()
        self._hopeless: set[str] = set()
        self._cut_short: set[str] = set()
        self._taught_on: dict[str, Step] = {}
        self._spent = 0.0

    def note(self, trial: Trial, tolerance: float) -> None:
        """Take account of a finished trial: what it spent, and which steps are trained now.

        A trained network that is far outside the tolerance is not built upon any further.
        """
        self._spent += trial.seconds.get("train", 0.0)
        done = len(trial.recipe.steps) if trial.failed_step is None else trial.failed_step
        start = trial.recipe.start
        prefixes = trained_prefixes(trial.recipe)
        trained = [_key(start, p) for p in prefixes if len(p) <= done]
        told = zip(trained, trial.stopped, strict=False)
        self._cut_short |= {key for key, why in told if why == _CUT_SHORT}
        self._taught_on |= {
            _key(start, p[:-1]): p[-1] for p in prefixes if _SECONDS in p[-1].params
        }
        self._trained.update(trained)
        found = trial.evidence.search_quality
        if trained and found is not None and found.drop.estimate > _HOPELESS * tolerance:
            self._hopeless.add(trained[-1])

    def affordable(self, space: JointSpace, seconds_left: float) -> JointSpace:
        """The recipes of `space` that need no more training than can still be paid for.

        Parameters
        ----------
        seconds_left
            Of the race: what is not done by its end was trained for nothing.
        """
        verdicts: dict[str, bool] = {}
        # Steps before may have taken a little more than their shares.
        purse = (self.seconds - self._spent) * _OVERHEAD

        def pays(recipe: Recipe) -> bool:
            prefixes = [_key(recipe.start, prefix) for prefix in trained_prefixes(recipe)]
            if not prefixes:
                return True
            if prefixes[-1] not in verdicts:
                new = sum(prefix not in self._trained for prefix in prefixes)
                time = new * (self.share * _OVERHEAD + _EXPORT_SECONDS)
                verdicts[prefixes[-1]] = self._hopeless.isdisjoint(prefixes) and (
                    not new or (new * self.share <= purse and time <= seconds_left)
                )
            return verdicts[prefixes[-1]]

        kept = tuple(recipe for recipe in space.recipes if pays(recipe))
        return dataclasses.replace(space, recipes=kept)

    def taught_on(self, space: JointSpace, seconds_left: float) -> JointSpace:
        """The recipes of `space` whose student was cut short, with a step that teaches it on.

        Each student is taught on once, for a part of the time that is left then, and none that is
        far outside the tolerance. The space is empty where too little time is left.

        Parameters
        ----------
        seconds_left
            Of the race, as in :meth:`affordable`.
        """
        rest = float(int(_REST * (seconds_left - _EXPORT_SECONDS)))
        names = dict.fromkeys(step.technique for it in space.recipes for step in it.steps)
        trainers = [techniques.get(name) for name in names if trains(name)]
        recipes: list[Recipe] = []
        for recipe in space.recipes:
            prefixes = trained_prefixes(recipe)
            keys = [_key(recipe.start, prefix) for prefix in prefixes]
            if not keys or keys[-1] not in self._cut_short or not self._hopeless.isdisjoint(keys):
                continue
            step = self._taught_on.get(keys[-1])
            if step is None and rest >= _LEAST_REST * self.share:
                step = _further(trainers, prefixes[-1], rest)
            if step is not None:
                steps = (*prefixes[-1], step, *recipe.steps[len(prefixes[-1]) :])
                recipes.append(recipe.model_copy(update={"steps": steps}))
        return dataclasses.replace(space, recipes=tuple(recipes))


def trained_prefixes(recipe: Recipe) -> list[tuple[Step, ...]]:
    """The beginnings of a recipe that end with a trained step, shortest first."""
    return [
        recipe.steps[: index + 1]
        for index, step in enumerate(recipe.steps)
        if trains(step.technique)
    ]


def shares(space: JointSpace) -> int:
    """Among how many trained steps the seconds are dealt out: `SHARES`, or all that there are."""
    steps = {
        _key(recipe.start, prefix)
        for recipe in space.recipes
        for prefix in trained_prefixes(recipe)
    }
    return max(1, min(SHARES, len(steps)))


def trains(technique: str) -> bool:
    """Whether a technique learns from examples, for as long as it is given."""
    return "train" in techniques.get(technique).roles


def untrained(space: JointSpace, history: Sequence[Trial]) -> list[str]:
    """The kinds of training in `space` that no trial got to, as texts."""

    def steps(recipes: Iterable[Recipe]) -> set[str]:
        return {str(prefix[-1]) for recipe in recipes for prefix in trained_prefixes(recipe)}

    return sorted(steps(space.recipes) - steps(trial.recipe for trial in history))


def _further(trainers: Iterable[Technique], prefix: Sequence[Step], seconds: float) -> Step | None:
    """A step that trains what `prefix` left for so many seconds more, if any technique has one."""
    for one in trainers:
        if (params := one.further(prefix, seconds)) is not None:
            return Step(technique=one.name, version=one.version, params=dict(params))
    return None


def _key(start: str, steps: Sequence[Step]) -> str:
    return "\n".join([start, *(step.to_json() for step in steps)])
