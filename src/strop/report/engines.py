"""Which engine for this model on this machine, and why."""

from __future__ import annotations

import math
from collections.abc import Sequence

from strop.records import Interval, Result, Trial
from strop.report.ladder import over
from strop.report.numbers import Score, ratio
from strop.report.pareto import speed_of
from strop.report.record import EngineRow
from strop.search.objective import cost

_NAN = math.nan
_GOALS = {
    "latency": "faster",
    "throughput": "faster",
    "energy": "more frugal",
    "cost": "cheaper",
    "size": "smaller",
    "memory": "leaner",
}
_SPEEDY = ("latency", "throughput", "cost")


def rows(result: Result) -> tuple[EngineRow, ...]:
    """One row an engine: those within the tolerance first, the best before the others."""
    tried: dict[str, list[Trial]] = {}
    for trial in result.trials:
        tried.setdefault(trial.recipe.deploy.engine, []).append(trial)
    base = _base(result)
    found = [_row(result, engine, trials, base) for engine, trials in tried.items()]
    found += [
        EngineRow(engine=engine, status="left-out", reason=reason)
        for engine, reason in result.engines_left_out.items()
        if engine not in tried
    ]
    by_number = {trial.number: trial for trial in result.trials}

    def order(row: EngineRow) -> tuple[int, float, str]:
        best = None if row.trial is None else by_number[row.trial]
        value = math.inf if best is None else cost(best, result.target.goal)
        rank = {"unfit": 1, "failed": 2, "left-out": 3}.get(row.status, 0)
        return rank, value, row.engine

    return tuple(sorted(found, key=order))


def against(result: Result) -> str:
    """What the rows' speeds are relative to."""
    base = _base(result)
    return "the original" if base is None or base.number == 0 else str(base.recipe)


def why(result: Result, found: Sequence[EngineRow], score: Score) -> tuple[str, ...]:
    """The choice in sentences; each says only what was measured."""
    goal = result.target.goal
    said = []
    delivered = next((row for row in found if row.status == "delivered"), None)
    able = [row for row in found if row.status in ("delivered", "measured")]
    if able and len(able) > 1:
        said.append(_first_two(able[0], able[1], goal))
    elif able:
        said.append(f"{able[0].engine} is the only engine with a measured recipe that keeps within")
        said[-1] += " the tolerance."
    if delivered is not None and able and able[0] is not delivered:
        said.append(
            f"What was delivered runs on {delivered.engine} all the same: what looked "
            f"{_GOALS[goal]} on {able[0].engine} in the race could not be claimed, or was not "
            "so when it was timed again."
        )
    for row in found:
        if row.status != "unfit" or row.drop is None:
            continue
        if row.drop.estimate > result.tolerance:
            said.append(
                f"On {row.engine} everything that was timed loses more than was allowed: "
                f"{score.drop(row.drop.estimate)} at the least."
            )
        else:
            said.append(f"On {row.engine} nothing kept within the limits: its best {row.reason}.")
    return tuple(said)


def _first_two(best: EngineRow, second: EngineRow, goal: str) -> str:
    if goal not in _SPEEDY or best.speed is None or second.speed is None:
        return (
            f"At the goal, {goal}, the best recipe on {best.engine} comes before {second.engine}’s."
        )
    said = (
        f"The best recipe on {best.engine} is {ratio(best.speed.estimate / second.speed.estimate)} "
        f"as fast as the best on {second.engine}"
    )
    if best.plain is not None and second.plain is not None:
        times = ratio(best.plain.estimate / second.plain.estimate)
        said += f"; with the outputs left as they are the ratio is {times}"
    if best.speed.low <= second.speed.high:
        said += ". Their intervals overlap: the search alone could not tell them apart"
    return f"{said}."


def _base(result: Result) -> Trial | None:
    """The original where the race timed it, else what the race timed the others against."""
    timed = [trial for trial in result.trials if speed_of(trial) is not None]
    return min(timed, key=lambda trial: trial.number, default=None)


def _row(result: Result, engine: str, trials: Sequence[Trial], base: Trial | None) -> EngineRow:
    timed = [trial for trial in trials if speed_of(trial) is not None]
    chosen = any(trial.status == "chosen" for trial in trials)
    if not timed:
        reasons = dict.fromkeys(trial.reason for trial in trials if trial.reason)
        reason = next(iter(reasons), _at_the_end(result))
        return EngineRow(
            engine=engine,
            status="delivered" if chosen else "failed" if reasons else "measured",
            trials=len(trials),
            recipe=str(trials[0].recipe),
            trial=trials[0].number,
            reason=reason,
        )
    goal = result.target.goal
    alive = [trial for trial in timed if trial.status not in ("dropped", "failed")]
    holding = [trial for trial in alive if _drop(trial) <= result.tolerance or trial.equivalent]
    best = next((trial for trial in trials if trial.status == "chosen"), None)
    if best is None or speed_of(best) is None:
        best = min(holding, key=lambda trial: cost(trial, goal), default=None)
    unfit = best is None
    if best is None:
        best = min(alive or timed, key=_drop)
    exact = min(
        (trial for trial in alive if trial.equivalent),
        key=lambda trial: cost(trial, goal),
        default=None,
    )
    memory, quality = best.evidence.memory, best.evidence.search_quality
    return EngineRow(
        engine=engine,
        status="delivered" if chosen else "unfit" if unfit else "measured",
        trials=len(trials),
        recipe=str(best.recipe),
        trial=best.number,
        speed=_relative(best, base),
        plain=None if exact is None else _relative(exact, base),
        drop=None if quality is None else quality.drop,
        file=None if memory is None else memory.file,
        peak=None if memory is None else memory.peak,
        reason=best.reason if unfit else "",
    )


def _at_the_end(result: Result) -> str:
    """What is known of an original that the race could not time."""
    for found in result.delivered.evidence.speedups:
        if found.against == "original" and math.isfinite(found.ratio.estimate):
            return f"timed only at the end: the delivered is {ratio(found.ratio.estimate)} as fast"
    return "not timed by the search, only at the end"


def _relative(trial: Trial, base: Trial | None) -> Interval | None:
    mine = speed_of(trial)
    theirs = None if base is None else speed_of(base)
    if mine is None or theirs is None:
        return None
    if trial is base:
        return Interval(estimate=1.0, low=_NAN, high=_NAN)
    return over(mine, theirs)


def _drop(trial: Trial) -> float:
    quality = trial.evidence.search_quality
    return math.inf if quality is None else quality.drop.estimate
