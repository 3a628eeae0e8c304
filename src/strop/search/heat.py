"""The last heat: the fastest of a race timed again, all of them side by side.

The race times each candidate beside the anchor when its turn comes. On a machine with other work
the ratios of two different minutes differ by more than their intervals say, and of many the
luckiest would win. Side by side, whatever slows one slows all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from strop.errors import StropError
from strop.measure import Arena
from strop.records import Goal, StageEntered, Trial
from strop.search.builder import Built, build
from strop.search.objective import cost, may_hold
from strop.search.typical import timing_inputs
from strop.search.workspace import Workspace

Retimed = Callable[[Trial, Built, str], Trial]
"""Gives a trial what the arena says of its session, which has the name that is given."""

_SHARE, _LONGEST = 0.05, 40.0
"""What the heat is kept: a share of the budget, and seconds at most."""
_MOST, _LEAST = 6, 2
_NEAR = 1.5
"""Trials that cost so many times the best were slower by more than luck."""
_ROUNDS = 12
_UNTIMED_SECONDS = 3.0


def kept_for_heat(workspace: Workspace) -> float:
    """Seconds of the race that the heat is kept; 0 for goals that are not timed."""
    if workspace.task.goal in ("memory", "size"):
        return 0.0
    return min(_SHARE * workspace.clock.budget, _LONGEST)


def heats(
    workspace: Workspace,
    arena: Arena,
    trials: Sequence[Trial],
    original: Built,
    retimed: Retimed,
    kept: float,
) -> Iterator[Trial]:
    """Time the fastest again, until the one that is then the best has been timed so.

    Parameters
    ----------
    trials
        Of the race, by number; what is given back takes their places before the next is asked for.
    retimed
        Called once a trial, when all rounds of its heat are over.
    kept
        Seconds that a heat may take.
    """
    done: set[int] = set()
    goal, tolerance = workspace.task.goal, workspace.tolerance
    while chosen := contenders(trials, goal, tolerance, done, kept):
        detail = f"timing the {len(chosen)} fastest side by side"
        workspace.emit(StageEntered(stage="race", detail=detail))
        with workspace.clock.phase("time"):
            entered = _enter(workspace, arena, chosen, original, number=len(done))
            for _ in range(_ROUNDS):
                arena.round()
        done.update(trial.number for trial in chosen)
        told = [retimed(trial, built, name) for trial, built, name in entered]
        for _, _, name in entered:
            arena.drop(name)
        yield from told
        if workspace.clock.race_left <= 0:
            return


def contenders(
    trials: Sequence[Trial], goal: Goal, tolerance: float, done: set[int], kept: float
) -> list[Trial]:
    """Those for the next heat, the best first; none where the best has been in one.

    As many as there is time for, by what the race took to time each.

    Parameters
    ----------
    done
        Numbers of those that have been in a heat.
    kept
        Seconds.
    """
    ranked = sorted(
        (trial for trial in trials if trial.status == "alive" and may_hold(trial, tolerance)),
        key=lambda trial: cost(trial, goal),
    )
    ranked = [trial for trial in ranked if cost(trial, goal) <= _NEAR * cost(ranked[0], goal)]
    if len(ranked) < _LEAST or ranked[0].number in done:
        return []
    chosen: list[Trial] = []
    seconds = 0.0
    for trial in ranked[:_MOST]:
        seconds += trial.seconds.get("time", _UNTIMED_SECONDS)
        if len(chosen) >= _LEAST and seconds > kept:
            break
        chosen.append(trial)
    return chosen


def _enter(
    workspace: Workspace, arena: Arena, chosen: Sequence[Trial], original: Built, *, number: int
) -> list[tuple[Trial, Built, str]]:
    """Load and warm them; those that no longer run are left as the race had them."""
    entered = []
    for trial in chosen:
        try:
            built = build(workspace, trial.recipe) if trial.number else original
        except StropError:  # it was built before, but the cache has lost it since
            continue
        name = f"#{trial.number}, heat {number}"
        payload = workspace.payload_for(built.spec)
        batch = trial.recipe.deploy.batch
        error = arena.add(
            name,
            built.spec,
            None if payload is None else payload.tobytes(),
            None if batch == workspace.target.batch else timing_inputs(workspace, batch),
        )
        if error is None:
            entered.append((trial, built, name))
        if arena.full:
            break
    return entered
