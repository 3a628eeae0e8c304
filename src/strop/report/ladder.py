"""Which step brought what: the delivered recipe, rung by rung, from trials that were measured.

Nothing is computed that was not tried. A rung is told from the trial of the recipe that ends
there; where no trial has it, the rung says so, and the gain of the next one says what else is in
it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from strop.records import Deployment, Interval, Result, Step, Trial
from strop.report import trained
from strop.report.pareto import speed_of
from strop.report.record import Ladder, Rung
from strop.report.record import Setting as OtherSetting
from strop.search.tuning import Setting

_NAN = math.nan


@dataclass(frozen=True)
class _Place:
    """A rung before anything is known of it."""

    kind: Literal["original", "network", "technique", "engine", "setting"]
    name: str
    start: str
    steps: tuple[Step, ...]
    deploy: Deployment

    @property
    def recipe(self) -> str:
        return " → ".join(filter(None, [self.start, *map(str, self.steps), str(self.deploy)]))


def ladder(result: Result, meta: Mapping[str, Any]) -> Ladder | None:
    """The delivered recipe step by step; None where it is the original's own.

    Parameters
    ----------
    meta
        Of the delivered model, as the bundle's lineage keeps it: there the steps that train tell
        how that went.
    """
    if result.delivered.recipe.id == result.original.recipe.id:
        return None
    last, first = _places(result, engine_first=False), _places(result, engine_first=True)
    order: Literal["engine-last", "engine-first", "one-engine"] = "engine-last"
    places = last
    if not any(place.kind == "engine" for place in last):
        order = "one-engine"
    elif _measured(result, first) > _measured(result, last):
        order, places = "engine-first", first
    found = [(place, _find(result.trials, place)) for place in places]
    base = next(
        ((place, trial) for place, trial in found if trial and speed_of(trial) is not None), None
    )
    rungs: list[Rung] = []
    before: tuple[_Place, Trial] | None = None
    skipped: list[str] = []
    for place, trial in found:
        timed = None if trial is None else speed_of(trial)
        together: tuple[str, ...] = ()
        gain = None
        if timed is not None and before is not None and trial is not None:
            earlier = speed_of(before[1])
            assert earlier is not None
            gain = over(timed, earlier)
            together = (*skipped, *_other_options(before[1], trial, place))
        rungs.append(_rung(result, place, trial, base and base[1], gain, together, meta))
        if timed is None:
            skipped.append(place.name)
        else:
            assert trial is not None
            before, skipped = (place, trial), []
    against = "the original"
    if base is not None and base[0] is not places[0]:
        against = str(base[1].recipe)
    return Ladder(order=order, against=against, rungs=tuple(rungs))


def over(one: Interval, other: Interval) -> Interval:
    """The ratio of two ratios to one anchor, as if their errors were independent.

    Examples
    --------
    >>> two = Interval(estimate=2.0, low=1.9, high=2.1)
    >>> over(two, Interval(estimate=1.0, low=1.0, high=1.0)).estimate
    2.0
    """
    estimate = one.estimate / other.estimate
    if not all(0 < end < math.inf for end in (one.low, one.high, other.low, other.high)):
        return Interval(estimate=estimate, low=_NAN, high=_NAN)
    sides = []
    for mine, theirs in (("low", "high"), ("high", "low")):
        up = math.log(getattr(one, mine) / one.estimate)
        down = math.log(getattr(other, theirs) / other.estimate)
        sides.append(math.hypot(up, down))
    return Interval(
        estimate=estimate,
        low=estimate * math.exp(-sides[0]),
        high=estimate * math.exp(sides[1]),
        confidence=one.confidence,
    )


def _places(result: Result, *, engine_first: bool) -> list[_Place]:
    given, made = result.original.recipe, result.delivered.recipe
    # The engine as the original was set, so that what its settings brought is a rung of its own.
    unset = {name: getattr(given.deploy, name) for name in ("threads", "streams", "batch")}
    engine = made.deploy.model_copy(update=unset)
    changes = given.deploy != engine
    along = engine if engine_first or not changes else given.deploy
    places = [_Place("original", "the original", "", (), given.deploy)]
    if changes and engine_first:
        places.append(_Place("engine", str(engine), "", (), engine))
    if made.start:
        places.append(_Place("network", made.start, made.start, (), along))
    for count, step in enumerate(made.steps, 1):
        places.append(_Place("technique", str(step), made.start, made.steps[:count], along))
    if changes and not engine_first:
        places.append(_Place("engine", str(engine), made.start, made.steps, engine))
    if made.deploy != engine:
        places.append(_Place("setting", _setting(result), made.start, made.steps, made.deploy))
    return places


def _setting(result: Result) -> str:
    """Batch size, calls at once and threads of the delivered, in words."""
    deploy = result.delivered.recipe.deploy
    return str(Setting(deploy.batch, deploy.threads or result.machine.cores, deploy.streams))


def _measured(result: Result, places: Sequence[_Place]) -> int:
    found = (_find(result.trials, place) for place in places)
    return sum(trial is not None and speed_of(trial) is not None for trial in found)


def _find(trials: Sequence[Trial], place: _Place) -> Trial | None:
    """The trial of a place: with its options where there is one, else with the nearest."""
    alike = [
        trial
        for trial in trials
        if trial.recipe.start == place.start
        and trial.recipe.steps == place.steps
        and _where(trial.recipe.deploy) == _where(place.deploy)
    ]
    if place.kind == "original":  # nothing else is the original
        alike = [trial for trial in alike if trial.recipe.deploy == place.deploy]
    return min(
        alike,
        key=lambda trial: (
            speed_of(trial) is None,
            len(_differing(trial.recipe.deploy.options, place.deploy.options)),
            trial.number,
        ),
        default=None,
    )


def _where(deploy: Deployment) -> tuple[object, ...]:
    return deploy.engine, deploy.device, deploy.threads, deploy.streams, deploy.batch


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def _other_options(before: Trial, trial: Trial, place: _Place) -> Iterator[str]:
    """Options that changed between two trials on one engine, besides the step itself."""
    one, other = before.recipe.deploy, trial.recipe.deploy
    if one.engine == other.engine and place.kind != "engine":
        for name in _differing(one.options, other.options):
            yield f"{name}={other.options.get(name)}"


def _rung(
    result: Result,
    place: _Place,
    trial: Trial | None,
    base: Trial | None,
    gain: Interval | None,
    together: tuple[str, ...],
    meta: Mapping[str, Any],
) -> Rung:
    timed = None if trial is None else speed_of(trial)
    anchor = None if base is None else speed_of(base)
    speed = None
    if timed is not None and anchor is not None:
        speed = Interval(estimate=1.0, low=_NAN, high=_NAN)
        if trial is not base:
            speed = over(timed, anchor)
    memory = None if trial is None else trial.evidence.memory
    quality = None if trial is None else trial.evidence.search_quality
    rung = Rung(
        kind=place.kind,
        name=place.name,
        recipe=place.recipe if trial is None else str(trial.recipe),
        trial=None if trial is None else trial.number,
        speed=speed,
        gain=gain,
        together=together,
        drop=None if quality is None else quality.drop,
        file=None if memory is None else memory.file,
        weights=None if memory is None else memory.weights,
        reason=_missing(place, trial) if timed is None else _otherwise(place, trial),
    )
    return rung if place.kind != "technique" else _with_training(rung, result, place, anchor, meta)


def _otherwise(place: _Place, trial: Trial | None) -> str:
    """What was measured, where it is not quite what the rung is called."""
    if trial is None or trial.recipe.deploy.options == place.deploy.options:
        return ""
    return f"measured on {trial.recipe.deploy}: never tried alone with the delivered options"


def _missing(place: _Place, trial: Trial | None) -> str:
    if trial is None:
        return "never tried alone"
    if trial.reason:
        return f"not timed alone: {trial.reason}"
    if place.kind == "original":
        return "not timed by the search, only at the end"
    return "not timed alone"


def _with_training(
    rung: Rung,
    result: Result,
    place: _Place,
    anchor: Interval | None,
    meta: Mapping[str, Any],
) -> Rung:
    step = place.steps[-1]
    meta = trained.left_by(result.delivered.recipe.steps, len(place.steps), meta)
    runs = trained.trainings(step.technique, meta)
    changes: dict[str, Any] = {"parameters": trained.parameters(step.technique, meta)}
    if runs:
        changes |= {
            "trainings": runs,
            "student": trained.student(step.params),
            "train_seconds": _train_seconds(result.trials, place, meta),
            "others": tuple(_others(result, place, anchor)),
        }
    return rung.model_copy(update=changes)


def _train_seconds(trials: Sequence[Trial], place: _Place, meta: Mapping[str, Any]) -> float | None:
    """What the trial spent that trained this step first; later ones took it from the cache."""
    for trial in sorted(trials, key=lambda trial: trial.number):
        recipe = trial.recipe
        if recipe.start != place.start or recipe.steps[: len(place.steps)] != place.steps:
            continue
        if "train" not in trial.seconds:
            continue
        others = [step for step in recipe.steps if step is not recipe.steps[len(place.steps) - 1]]
        shared = any(trained.trainings(step.technique, meta) for step in others)
        return None if shared else trial.seconds["train"]
    return None


def _others(result: Result, place: _Place, anchor: Interval | None) -> Iterator[OtherSetting]:
    """The best trial with each other setting of the place's last step, after equal ones."""
    earlier, own = place.steps[:-1], place.steps[-1]
    best: dict[str, Trial] = {}
    for trial in result.trials:
        steps = trial.recipe.steps
        if trial.recipe.start != place.start or steps[: len(earlier)] != earlier:
            continue
        if len(steps) < len(place.steps) or steps[len(earlier)] == own:
            continue
        step = steps[len(earlier)]
        if step.technique != own.technique:
            continue
        known = best.get(str(step))
        if known is None or _speed(trial) > _speed(known):
            best[str(step)] = trial
    for text, trial in best.items():
        timed, quality = speed_of(trial), trial.evidence.search_quality
        yield OtherSetting(
            text=text,
            trial=trial.number,
            speed=timed.estimate / anchor.estimate if timed and anchor else None,
            drop=None if quality is None else quality.drop.estimate,
            reason=trial.reason,
        )


def _speed(trial: Trial) -> float:
    found = speed_of(trial)
    return 0.0 if found is None else found.estimate
