"""How long a recipe is waited for, and which are not worth beginning any more.

Towards the end of a race the time that a recipe may take shrinks. One that is killed for want of it
has cost that time and taught nothing about its quality; but it has taught that its like takes
longer still.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from strop.records import Recipe, Step, Trial
from strop.search.builder import trains as any_trains
from strop.search.purse import trains
from strop.search.space import JointSpace

_SHARE, _SHORTEST = 0.25, 20.0
"""What one trial may take of the race's time left, and at least in seconds: one slow build must
not be all that is tried. Training is meant to take long and has limits of its own."""
_LAST_SHARE, _LAST = 0.8, 30.0
"""Of a short time left one build may take more, up to so many seconds: there is no time for two."""


class Foresight:
    """What the trials so far tell about the time that others would take."""

    def __init__(self) -> None:
        self._known: dict[str, list[_Known]] = {}

    def note(self, trial: Trial) -> None:
        """Take account of a finished trial: its build bounds the time of each step from above.

        A step that failed bounds it from below: whatever else it came to grief by, it had not ended
        by then.
        """
        seconds = trial.seconds.get("build")
        if seconds is None:
            return
        for index, step in enumerate(trial.recipe.steps):
            if trial.failed_step is not None and index > trial.failed_step:
                break
            known = _Known(step.params, seconds, ended=index != trial.failed_step)
            self._known.setdefault(step.technique, []).append(known)

    def in_time(self, space: JointSpace, race_left: float) -> JointSpace:
        """The recipes of `space` that are likely to be built in the time they may take.

        Parameters
        ----------
        race_left
            Seconds.
        """
        verdicts: dict[tuple[str, float], bool] = {}

        def has_time(step: Step, allowed: float) -> bool:
            key = step.to_json(), allowed
            if key not in verdicts:
                verdicts[key] = trains(step.technique) or self.seconds(step) < allowed
            return verdicts[key]

        def fits(recipe: Recipe) -> bool:
            allowed = patience(recipe, race_left)
            return all(has_time(step, allowed) for step in recipe.steps)

        return dataclasses.replace(space, recipes=tuple(filter(fits, space.recipes)))

    def seconds(self, step: Step) -> float:
        """What building this step is likely to take, by those of its technique most like it.

        Zero where nothing is known, and for a step that was built already: it is kept. Of several
        that are as like it, the quickest that ended counts (others of them did more beside it), and
        the slowest that failed.
        """
        alike = [
            (_differences(known.params, step.params), known)
            for known in self._known.get(step.technique, ())
        ]
        nearest = min((distance for distance, _ in alike), default=0)
        found = [known for distance, known in alike if distance == nearest]
        if nearest == 0 and any(known.ended for known in found):
            return 0.0
        ended = [known.seconds for known in found if known.ended]
        failed = [known.seconds for known in found if not known.ended]
        return max(min(ended, default=0.0), *failed, 0.0)


def patience(recipe: Recipe, race_left: float) -> float:
    """Seconds that the race waits for a recipe, of those it has left."""
    if any_trains(recipe):
        return max(_SHORTEST, race_left)
    return max(_SHORTEST, _SHARE * race_left, min(_LAST, _LAST_SHARE * race_left))


@dataclasses.dataclass(frozen=True)
class _Known:
    params: Mapping[str, object]
    seconds: float
    ended: bool


def _differences(one: Mapping[str, object], other: Mapping[str, object]) -> int:
    return sum(one.get(name) != other.get(name) for name in {*one, *other})
