"""What brought the result: the delivered recipe step by step, and the engines beside each other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from strop.records import Interval, Result
from strop.report import engines, figures, ladder, sources, wording
from strop.report.numbers import (
    NONE,
    Score,
    duration,
    fixed,
    ratio,
    ratio_bounds,
    significant,
    size,
)
from strop.report.record import Breakdown, EngineRow, Ladder, Rung, Setting, Training

_STATUS = {
    "delivered": "delivered",
    "measured": "",
    "unfit": "beyond the limits",
    "failed": "failed",
    "left-out": "took no part",
}
_STOPPED = {
    "done": "the whole schedule was run",
    "early": "it stopped early, as its quality grew no more",
    "time": "its time was up",
}
_MOST_OTHERS = 6


@dataclass(frozen=True)
class StepRow:
    """A rung as it is shown; `details` are sentences on its training."""

    name: str
    kind: str
    speed: str
    bounds: str
    picture: Markup
    gain: str
    together: str
    lost: str
    lost_bounds: str
    file: str
    reason: str
    details: tuple[str, ...]


@dataclass(frozen=True)
class EngineLine:
    """One engine as it is shown."""

    engine: str
    status: str
    recipe: str
    speed: str
    bounds: str
    picture: Markup | None
    plain: str
    lost: str
    lost_bounds: str
    file: str
    peak: str
    reason: str
    who: str


def read(folder: Path, path: Path) -> Breakdown:
    """The breakdown of an output folder or a bundle.

    Parameters
    ----------
    path
        Of the HTML report, to be told.

    Raises
    ------
    InputError
        When the folder holds no result.
    """
    given = sources.read(Path(folder))
    result = given.result
    score = Score.of(result)
    found = engines.rows(result)
    return Breakdown(
        model=result.model,
        path=str(path),
        headline=wording.headline(result, score),
        steps=ladder.ladder(result, given.meta),
        against=engines.against(result),
        engines=found,
        why=engines.why(result, found, score),
        left_out=result.techniques_left_out,
    )


def step_rows(found: Ladder, score: Score) -> list[StepRow]:
    """The rungs in order, with a waterfall of their speeds."""
    seen = [rung.speed for rung in found.rungs if rung.speed is not None]
    values = [one.estimate for one in seen] + [
        end for one in seen for end in (one.low, one.high) if 0 < end < math.inf
    ]
    ends = (min([0.9, *values]), max([1.2, *values]))
    rows = []
    before: float | None = None
    for rung in found.rungs:
        last = rung is found.rungs[-1]
        rows.append(_step_row(rung, figures.rung(before, rung.speed, ends, last=last), score))
        before = rung.speed.estimate if rung.speed is not None else before
    return rows


def order(found: Ladder) -> str:
    """In which order the rungs stand, and why."""
    if found.order == "one-engine":
        return "All rungs run on one engine with the same options."
    if found.order == "engine-first":
        return (
            "The engine comes first: more of the steps were measured on it than on the original’s."
        )
    return "The engine comes last: the steps before it were measured on the original’s."


def whole(result: Result) -> str:
    """The whole way as it was timed at the end; empty where it was not."""
    found = next(
        (one for one in result.delivered.evidence.speedups if one.against == "original"), None
    )
    if found is None or not math.isfinite(found.ratio.estimate):
        return ""
    ends = ratio_bounds(found.ratio)
    interval = f" ({ends})" if ends else ""
    return (
        f"Timed again in {found.launches} paired launches, the whole is "
        f"{ratio(found.ratio.estimate)}{interval} as fast as the original."
    )


def engine_lines(found: tuple[EngineRow, ...], score: Score) -> list[EngineLine]:
    """The engines in order."""
    speeds = [row.speed for row in found if row.speed is not None]
    largest = max(
        (one.high if math.isfinite(one.high) else one.estimate for one in speeds), default=1.0
    )
    return [_engine_line(row, largest, score) for row in found]


def training_text(training: Training, score: Score) -> list[str]:
    """A training run in sentences: how long, on what, and how it was judged.

    Examples
    --------
    >>> score = Score("accuracy", "binary", True, 2)
    >>> training_text(Training(epochs=2.0, steps=80, stopped="early"), score)
    ['2 epochs in 80 steps; it stopped early, as its quality grew no more.']
    """
    parts = []
    if training.epochs is not None:
        steps = f" in {training.steps:,} steps" if training.steps is not None else ""
        count = f"{training.epochs:.3g}"
        parts.append(f"{count} epoch{'s' if count != '1' else ''}{steps}")
    if training.examples is not None and training.of is not None:
        chosen = {"all": "all", "coreset": "chosen as a coreset:", "random": "drawn at random:"}
        how = chosen.get(training.chosen or "", "")
        parts.append(
            f"on {how} {training.examples:,} of {training.of:,} examples".replace("  ", " ")
        )
    said = []
    if parts:
        ended = f"; {_STOPPED.get(training.stopped or '', '')}".rstrip("; ")
        said.append(f"{', '.join(parts)}{ended}.")
    if training.before is not None and training.best is not None:
        share = (training.quality or "") in ("accuracy", "agreement")

        def text(value: float) -> str:
            return f"{value:.2%}" if share else significant(value, 4)

        on = ""
        if training.judged:
            where = {"search": "of the search part", "held out": "held out from training"}
            place = where.get(training.judged_on or "", "")
            on = f", judged on {training.judged:,} examples {place}".rstrip()
        name = training.quality or "Quality"
        said.append(
            f"{name[0].upper()}{name[1:]} went from {text(training.before)} to "
            f"{text(training.best)}{on}."
        )
    chosen_by_trials = [
        f"a learning rate of {training.learning_rate:.3g}" if training.learning_rate else "",
        f"in {training.precision}" if training.precision else "",
        f"the loss was {training.loss:.3g} at the end" if training.loss is not None else "",
    ]
    if any(chosen_by_trials):
        line = ", ".join(filter(None, chosen_by_trials))
        said.append(f"{line[0].upper()}{line[1:]}.")
    if training.part:
        said = (
            [f"{training.part[0].upper()}{training.part[1:]}: {said[0]}", *said[1:]] if said else []
        )
    return [*said, *training.warnings]


def _step_row(rung: Rung, picture: Markup, score: Score) -> StepRow:
    drop = rung.drop
    return StepRow(
        name=rung.name,
        kind=rung.kind,
        speed=ratio(None if rung.speed is None else rung.speed.estimate),
        bounds="" if rung.speed is None else ratio_bounds(rung.speed),
        picture=picture,
        gain=ratio(None if rung.gain is None else rung.gain.estimate),
        together=f"with {', '.join(rung.together)}" if rung.together else "",
        lost=NONE if drop is None else fixed(drop.estimate * score.scale, score.decimals),
        lost_bounds="" if drop is None else score.drop_bounds(drop),
        file=size(rung.file),
        reason=rung.reason,
        details=tuple(_details(rung, score)),
    )


def _details(rung: Rung, score: Score) -> list[str]:
    said = []
    if rung.student:
        said.append(f"The student is {rung.student}.")
    if rung.parameters is not None:
        before, after = rung.parameters
        said.append(f"{before:,} parameters became {after:,}.")
    for training in rung.trainings:
        said += training_text(training, score)
    if rung.train_seconds is not None:
        said.append(f"It trained for {duration(rung.train_seconds)}.")
    if rung.trainings:
        said.append(_others(rung.others, score))
    return said


def _others(others: tuple[Setting, ...], score: Score) -> str:
    """How this setting was chosen: beside what else the search tried."""
    if not others:
        return "No other setting of this step was tried in its place."
    told = []
    for other in others[:_MOST_OTHERS]:
        figures_ = [
            f"{ratio(other.speed)} at its best" if other.speed is not None else "",
            f"lost {score.drop(other.drop)}" if other.drop is not None else "",
        ]
        seen = ", ".join(filter(None, figures_)) or other.reason or "not measured"
        told.append(f"{other.text}: {seen} (No. {other.trial})")
    more = f"; and {len(others) - _MOST_OTHERS} more" if len(others) > _MOST_OTHERS else ""
    return f"Chosen by the search beside {'; '.join(told)}{more}."


def _engine_line(row: EngineRow, largest: float, score: Score) -> EngineLine:
    drop, speed = row.drop, row.speed
    who = "delivered" if row.status == "delivered" else "original"
    picture = None if speed is None else figures.bar(speed.estimate, largest, who, _known(speed))
    return EngineLine(
        engine=row.engine,
        status=_STATUS[row.status],
        recipe=row.recipe,
        speed=ratio(None if speed is None else speed.estimate),
        bounds="" if speed is None else ratio_bounds(speed),
        picture=picture,
        plain=ratio(None if row.plain is None else row.plain.estimate),
        lost=NONE if drop is None else fixed(drop.estimate * score.scale, score.decimals),
        lost_bounds="" if drop is None else score.drop_bounds(drop),
        file=size(row.file),
        peak=size(row.peak),
        reason=row.reason,
        who=row.status,
    )


def _known(interval: Interval) -> Interval | None:
    return interval if math.isfinite(interval.low) and math.isfinite(interval.high) else None
