"""A race's times: each candidate beside one anchor, and what they say of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from strop.measure import Arena, footprint
from strop.proof import ratio_interval
from strop.records import Interval, Memory, Speedup, Trial
from strop.search.builder import Built
from strop.search.objective import at_once
from strop.search.spending import screened
from strop.search.typical import timing_inputs
from strop.search.workspace import Workspace, reason_of

ANCHOR = "anchor"
"""What the arena calls the session that all others are compared with."""
_ROUNDS, _MORE_ROUNDS = 5, 6
_TAIL_CALLS, _TAIL_ROUNDS = 400, 30
"""So many calls bound p99 from above; rounds beyond so many are not spent on it."""


class Timekeeper:
    """Times trials in an arena.

    Parameters
    ----------
    history
        Trials of an interrupted run: energy goes on being told as it was told of them.

    Attributes
    ----------
    anchored
        Whether there is an anchor, and so anything to compare with.
    """

    def __init__(self, workspace: Workspace, arena: Arena, history: Sequence[Trial] = ()) -> None:
        self._workspace = workspace
        self.arena = arena
        self.anchored = False
        self._energy_kind = next(
            (trial.evidence.energy.kind for trial in history if trial.evidence.energy), None
        )

    def raise_anchor(self, built: Built) -> None:
        """Let `built` be what all others are timed against, if nothing is yet."""
        if self.anchored:
            return
        with self._workspace.clock.phase("time"):
            error = self.arena.add(ANCHOR, built.spec, None)
        if error is not None:
            raise error
        self.anchored = True

    def time(self, trial: Trial, built: Built, best: float) -> Trial:
        """Time a candidate beside the anchor: a few rounds, more unless it is clearly slower.

        Parameters
        ----------
        best
            How many times faster than the anchor the best so far is.
        """
        workspace, arena = self._workspace, self.arena
        # A module has no file of its own worth weighing: its ONNX form holds the same weights.
        weighed = built.model.forms.get("onnx", built.folder / "-").parent
        memory = footprint(weighed if built.spec.engine == "torch" else built.folder)
        if not self.anchored:
            evidence = trial.evidence.model_copy(update={"memory": memory})
            return trial.model_copy(update={"evidence": evidence})
        name = f"{trial.number}"
        payload = workspace.payload_for(built.spec)
        batch = trial.recipe.deploy.batch
        with workspace.clock.phase("time"):
            error = arena.add(
                name,
                built.spec,
                None if payload is None else payload.tobytes(),
                None if batch == workspace.target.batch else timing_inputs(workspace, batch),
            )
            if error is None:
                ratio = self._rounds(name, _ROUNDS)
                if ratio is not None and ratio.high > best:
                    self._rounds(name, _MORE_ROUNDS)
                if trial.evidence.points and workspace.target.max_p99_seconds is not None:
                    self._tail(name)
                memory = memory.model_copy(update={"peak": arena.memory_of(name)})
            told = self.told(trial, built, name, memory)
            arena.drop(name)
        return told

    def told(self, trial: Trial, built: Built, name: str, memory: Memory | None) -> Trial:
        """A trial with what the arena says of its session `name`, and the constraints of that."""
        timings = self.arena.timings()
        timing, ratio = timings[name], self._ratio(name)
        if timing.error is not None or ratio is None:
            why = (
                reason_of(timing.error) if timing.error else "the budget ended before it was timed"
            )
            return trial.model_copy(update={"status": "failed", "stage": "time", "reason": why})
        target = self._workspace.target
        spending = screened(
            target,
            built.spec,
            timing,
            timings[ANCHOR],
            kind=self._energy_kind,
            batch=trial.recipe.deploy.batch,
            concurrent=at_once(self._workspace.task.goal),
        )
        if self._energy_kind is None and spending["energy"] is not None:
            self._energy_kind = spending["energy"].kind
        beside = Speedup(against="anchor", batch=target.batch, ratio=ratio, launches=1)
        evidence = trial.evidence.model_copy(
            update={**spending, "memory": memory, "speedups": (beside,)}
        )
        return self._within_constraints(trial.model_copy(update={"evidence": evidence}))

    def _rounds(self, name: str, count: int) -> Interval | None:
        """Ratio of the anchor's time over `name`'s, over all rounds so far."""
        for _ in range(count):
            self.arena.round()
        return self._ratio(name)

    def _ratio(self, name: str) -> Interval | None:
        timings = self.arena.timings()
        mine = timings[name].rounds
        theirs = timings[ANCHOR].rounds[-len(mine) :] if len(mine) else mine
        if len(mine) < 2 or len(mine) != len(theirs):
            return None
        estimate, low, high = ratio_interval(np.log(theirs / mine), 0.95, "t")
        return Interval(estimate=estimate, low=low, high=high)

    def _tail(self, name: str) -> None:
        """Rounds until p99 has an upper bound."""
        for _ in range(_TAIL_ROUNDS):
            if len(self.arena.timings()[name].calls) >= _TAIL_CALLS:
                break
            self.arena.round()

    def _within_constraints(self, trial: Trial) -> Trial:
        target, memory = self._workspace.target, trial.evidence.memory
        (latency,) = trial.evidence.latency
        limit, reason = target.max_p99_seconds, ""
        # A race's few calls tell p99 roughly: only what is surely above goes, unless it was tuned
        # to keep the limit and was timed for longer.
        p99 = latency.p99.estimate if trial.evidence.points else latency.p99.low
        if limit is not None and latency.p50.estimate > limit:
            reason = f"takes {latency.p50.estimate * 1e3:.2f} ms: over --max-p99"
        elif limit is not None and p99 > limit:
            reason = f"has a p99 of {latency.p99.estimate * 1e3:.2f} ms: over --max-p99"
        elif target.max_memory_bytes and memory and (memory.peak or 0) > target.max_memory_bytes:
            reason = f"holds {(memory.peak or 0) / 1e6:.0f} MB: over --max-memory"
        if not reason:
            return trial
        return trial.model_copy(update={"status": "dropped", "stage": "time", "reason": reason})
