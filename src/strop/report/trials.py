"""Everything that was tried, as rows of a table: how far it came, and why it lost."""

from __future__ import annotations

import math
from dataclasses import dataclass

from strop.records import Quality, Result, Trial
from strop.report.numbers import NONE, Score, duration, fixed, ratio, ratio_bounds, size
from strop.report.pareto import speed_of

MOST = 1_000
"""Rows shown: the page has to stay small."""
_LONGEST = 400

_STAGES = {
    "build": "build",
    "screen": "screening",
    "evaluate": "scoring",
    "time": "timing",
}
_OUTCOMES = {
    "chosen": "delivered",
    "front": "best trade-off",
    "alive": "beaten",
    "dropped": "dropped",
    "failed": "failed",
}


@dataclass(frozen=True)
class Row:
    """One trial as it is shown; the `…_key` fields sort it, empty where there is no figure."""

    number: int
    recipe: str
    outcome: str
    stage: str
    stage_key: int
    lost: str
    lost_bounds: str
    lost_key: str
    speed: str
    speed_bounds: str
    speed_key: str
    file: str
    file_key: str
    seconds: str
    seconds_key: str
    why: str
    exact: bool


def shown(result: Result) -> list[Trial]:
    """The trials that the page has room for, in order: the best are kept whatever their number."""
    best_first = sorted(result.trials, key=lambda trial: trial.status not in ("chosen", "front"))
    return sorted(best_first[:MOST], key=lambda trial: trial.number)


def rows(result: Result, score: Score) -> list[Row]:
    """The trials in the order in which they were tried."""
    return [_row(trial, result, score) for trial in shown(result)]


def outcomes(found: list[Row]) -> list[str]:
    """The outcomes that occur, best first."""
    return [name for name in _OUTCOMES.values() if any(row.outcome == name for row in found)]


def _row(trial: Trial, result: Result, score: Score) -> Row:
    quality, speed, memory = trial.evidence.search_quality, speed_of(trial), trial.evidence.memory
    seconds = sum(trial.seconds.values())
    drop = None if quality is None else quality.drop
    return Row(
        number=trial.number,
        recipe=str(trial.recipe),
        outcome=_OUTCOMES[trial.status],
        stage=_STAGES[trial.stage],
        stage_key=list(_STAGES).index(trial.stage),
        lost=NONE if drop is None else fixed(drop.estimate * score.scale, score.decimals),
        lost_bounds="" if drop is None else score.drop_bounds(drop),
        lost_key="" if drop is None else _key(drop.estimate),
        speed=ratio(None if speed is None else speed.estimate),
        speed_bounds="" if speed is None else ratio_bounds(speed),
        speed_key="" if speed is None else _key(speed.estimate),
        file=size(None if memory is None else memory.file),
        file_key="" if memory is None else str(memory.file),
        seconds=duration(seconds) if trial.seconds else NONE,
        seconds_key=_key(seconds) if trial.seconds else "",
        why=_why(trial, quality, result, score),
        exact=trial.equivalent,
    )


def _why(trial: Trial, quality: Quality | None, result: Result, score: Score) -> str:
    """Why it is not what was delivered."""
    if trial.reason:
        text = " ".join(trial.reason.split())
        return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    if trial.status == "chosen":
        return "the best that could be claimed"
    if quality is not None and not trial.equivalent and quality.drop.estimate > result.tolerance:
        return f"loses {score.drop(quality.drop.estimate)}, more than was allowed"
    if trial.number == 0:
        return "the original, which all are compared with"
    delivered = next((other for other in result.trials if other.status == "chosen"), None)
    mine, best = speed_of(trial), None if delivered is None else speed_of(delivered)
    if mine is not None and best is not None and mine.estimate <= best.estimate:
        return "slower than what was delivered"
    if trial.status == "alive":
        return "another is at least as good in every respect"
    return "within the tolerance on the search examples, but not claimed"


def _key(value: float) -> str:
    return f"{value:.9g}" if math.isfinite(value) else ""
