"""Timing finalists against one another again, in fresh launches, and what that says at the goal."""

from __future__ import annotations

import time

import numpy as np

from strop.measure import Conditions, PairTiming, kind_of, pair, speedup
from strop.records import Interval, StageEntered, Trial, Warned
from strop.search.builder import Built
from strop.search.machines import saves_none
from strop.search.objective import SLOWEST, at_once, cost
from strop.search.spending import saved_against
from strop.search.typical import timing_inputs
from strop.search.workspace import Workspace

LAUNCHES = 10
"""Fresh processes of each side."""
_QUADS = 4
_LEAST_SECONDS, _LEAST_SHARE = 15.0, 0.05


def retime(
    workspace: Workspace,
    a: Built,
    b: Built,
    *,
    share: float,
    label: str,
    least: float | None = None,
    launches: int | None = None,
) -> PairTiming:
    """Fresh launches of both, in alternation.

    Parameters
    ----------
    share
        Of the time left, for all of it.
    label
        What is compared, for the progress view.
    least
        Seconds that it may take at least; by default so many that it can show something.
    launches
        `LAUNCHES` by default.
    """
    launches = launches or LAUNCHES
    workspace.emit(StageEntered(stage="timing", detail=label))
    inputs = timing_inputs(workspace, a.recipe.deploy.batch)
    b_inputs = timing_inputs(workspace, b.recipe.deploy.batch)
    payloads = tuple(
        None if (payload := workspace.payload_for(item.spec)) is None else payload.tobytes()
        for item in (a, b)
    )
    clock = workspace.clock
    if least is None:
        # Fewer than a handful of launches can show nothing: better late than a found answer lost.
        least = max(5.0, min(_LEAST_SECONDS, clock.budget / 8), _LEAST_SHARE * clock.budget)
    seconds = max(clock.left * share, least)
    with clock.phase("time"):
        timed = pair(
            a.spec,
            b.spec,
            inputs,
            b_inputs=b_inputs,
            launches=launches,
            quads=_QUADS,
            warmup_seconds=min(3.0, seconds / (4 * launches)),
            payloads=(payloads[0], payloads[1]),
            emit=workspace.say,
            conditions=Conditions(
                cpus=workspace.target.machine.cpus,
                deadline=time.monotonic() + seconds,
                concurrent=at_once(workspace.task.goal),
            ),
        )
    if not timed.launches:
        workspace.emit(
            Warned(
                message=f"{label}: no launch ended within {seconds:.0f} s, so there is no figure; "
                "is the machine busy (strop doctor)? A larger --budget gives more time"
            )
        )
    return timed


def gain(workspace: Workspace, timing: PairTiming) -> Interval | None:
    """How many times better b is at what the goal wants; None where that was not told."""
    if not timing.launches:
        return None
    if workspace.task.goal != "energy":
        return speedup(timing, "").ratio
    kind = kind_of(timing.a_used, timing.b_used)
    saved = saved_against(workspace.target, timing.a_used, timing.b_used, "", kind, timing.batches)
    return None if saved is None else saved.ratio


def surely_better(workspace: Workspace, timing: PairTiming) -> bool:
    """Whether b is better than a at the goal beyond doubt, and no slower than a goal allows."""
    gained, low = gain(workspace, timing), _low(timing)
    if gained is None or low is None or gained.low < 1.0:
        return False
    return workspace.task.goal != "energy" or low >= SLOWEST


def not_better(workspace: Workspace, timing: PairTiming, won: Trial, equal: Trial) -> str:
    """Why the chosen one may not be delivered as an improvement; empty when it may."""
    goal = workspace.task.goal
    low = _low(timing)
    name = str(won.recipe)
    if low is None:
        return f"the budget ended before {name} could be timed again"
    if goal in ("memory", "size"):
        if cost(won, goal) >= cost(equal, goal):
            return f"{name} does not take less {goal} than the fastest equivalent"
    else:
        gained = gain(workspace, timing)
        if gained is None:
            return f"the energy of {name} could not be told"
        if gained.low <= 1.0:
            surely = "taking less energy" if goal == "energy" else "faster"
            return f"{name} is not surely {surely} than the fastest equivalent: " + (
                f"{gained.estimate:.2f}× [{gained.low:.2f}, {gained.high:.2f}]"
                if timing.launches > 1
                else f"{gained.estimate:.2f}× in the one launch that there was time for, "
                "which has no interval; raise --budget"
            )
        if same_cost := saves_none(workspace.target, timing, name):
            return same_cost
        limit = workspace.target.max_p99_seconds
        if limit is not None:
            seconds = float(np.quantile(np.concatenate(timing.b_seconds), 0.99))
            if seconds > limit:
                return f"{name} has a p99 of {seconds * 1e3:.2f} ms: over --max-p99"
    if goal in ("memory", "size", "energy") and low < SLOWEST:
        return f"{name} takes less {goal} but may be slower: {low:.2f}× at worst"
    return ""


def _low(timing: PairTiming) -> float | None:
    """Lower confidence bound of the speed-up; None where no launch was finished."""
    return speedup(timing, "").ratio.low if timing.launches else None
