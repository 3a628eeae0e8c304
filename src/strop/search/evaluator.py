"""Scores of candidates beside the original's, role by role."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from strop.proof import Resamples
from strop.records import Interval, Quality, SessionSpec
from strop.search.builder import Built, batch_invariant
from strop.search.workspace import Workspace

Role = Literal["search", "prove"]
SCORING_BATCH = 32
"""Examples a call when outputs are only scored: engines reach their best rate well before."""


@dataclass(frozen=True)
class Reference:
    """The original's outputs on one role, on disk.

    Attributes
    ----------
    scores
        The original's score an example; ones for metrics that compare with the original. None
        for set-level metrics, which have a `value` instead.
    """

    role: Role
    folder: Path
    names: tuple[str, ...]
    scores: np.ndarray | None
    value: float | None = None


@dataclass(frozen=True)
class Scored:
    """A candidate's scores on the first `n` examples of a role.

    Attributes
    ----------
    drops
        Reference score less candidate score, an example; empty for set-level metrics.
    errors, changed
        The worst relative error of any output, and whether any decision changed, an example.
    """

    role: Role
    reference: np.ndarray
    scores: np.ndarray
    errors: np.ndarray
    changed: np.ndarray
    set_values: tuple[float, float] | None = None

    @property
    def drops(self) -> np.ndarray:
        return np.asarray(self.reference - self.scores)

    @property
    def n(self) -> int:
        return len(self.errors)


class Evaluator:
    """Runs the original once a role, and candidates against what it wrote."""

    def __init__(self, workspace: Workspace, original: SessionSpec) -> None:
        self._workspace = workspace
        self._original = original
        self._references: dict[str, Reference] = {}

    def reference(self, role: Role) -> Reference:
        """The original's outputs on `role`, computed at the first call."""
        if role not in self._references:
            workspace = self._workspace
            folder = workspace.folder / "reference" / role
            metric = workspace.metric
            with workspace.clock.phase("evaluate"):
                found = workspace.call(
                    "evaluate",
                    "write_reference",
                    spec=self._original.to_dict(),
                    payload=workspace.payload_for(self._original),
                    dataset=workspace.roles[role].describe(),
                    batch=SCORING_BATCH,
                    metric=metric.describe(),
                    folder=str(folder),
                )
            self._references[role] = Reference(
                role, folder, tuple(found["names"]), found["scores"], found["value"]
            )
        return self._references[role]

    def score_original(self, role: Role) -> Scored:
        """The original beside itself, from the outputs that it has written."""
        workspace, reference = self._workspace, self.reference(role)
        n = len(workspace.roles[role])
        unchanged = np.zeros(n), np.zeros(n, bool)
        if reference.value is not None:
            nothing = np.zeros(0)
            return Scored(role, nothing, nothing, *unchanged, (reference.value, reference.value))
        assert reference.scores is not None
        return Scored(role, reference.scores, reference.scores, *unchanged)

    def score(
        self, built: Built, role: Role, *, limit: int | None = None, timeout: float | None = None
    ) -> Scored:
        """Score a candidate on the first `limit` examples of a role (all by default)."""
        workspace = self._workspace
        reference = self.reference(role)
        # Where an example's result depends on its batch, only the served batch size is evidence.
        start, _ = workspace.start_of(built.recipe)
        dynamic = built.recipe.start and start.meta.get("quantised")
        fit = batch_invariant(built.recipe) and not dynamic
        batch = SCORING_BATCH if fit else built.recipe.deploy.batch
        # A set-level claim is resampled from the outputs: they are kept until it is.
        keep = workspace.metric.kind == "set" and role == "prove"
        with workspace.clock.phase("evaluate"):
            found = workspace.call(
                "evaluate",
                "evaluate",
                timeout=timeout,
                spec=built.spec.to_dict(),
                payload=workspace.payload_for(built.spec),
                dataset=workspace.roles[role].describe(),
                batch=batch,
                metric=workspace.metric.describe(),
                reference=str(reference.folder),
                reference_names=list(reference.names),
                limit=limit,
                keep=str(self._kept(built)) if keep else None,
            )
        n = len(found["errors"])
        if workspace.metric.kind == "set":
            values = (float(found["reference_value"]), float(found["value"]))
            empty = np.zeros(0)
            return Scored(role, empty, empty, found["errors"], found["changed"], values)
        assert reference.scores is not None
        return Scored(
            role, reference.scores[:n], found["scores"], found["errors"], found["changed"]
        )

    def bootstrap(self, built: Built, alpha: float, *, seconds: float) -> Resamples | str:
        """Resamples of a set-level metric's drop on *prove*, once :meth:`score` was called there.

        A text instead says why there are none.
        """
        workspace = self._workspace
        reference = self.reference("prove")
        kept = self._kept(built)
        try:
            found = workspace.call(
                "evaluate",
                "bootstrap",
                dataset=workspace.roles["prove"].describe(),
                metric=workspace.metric.describe(),
                reference=str(reference.folder),
                candidate=str(kept),
                names=list(reference.names),
                alpha=alpha,
                tolerance=workspace.tolerance,
                seed=workspace.task.seed,
                seconds=seconds,
            )
        finally:
            shutil.rmtree(kept, ignore_errors=True)
        if "reason" in found:
            return str(found["reason"])
        return Resamples(float(found["estimate"]), found["draws"], found["left_out"])

    def _kept(self, built: Built) -> Path:
        return self._workspace.folder / "outputs" / built.recipe.id


def quality(workspace: Workspace, scored: Scored) -> Quality:
    """The record of what was scored, with an interval for display (it proves nothing)."""
    metric = workspace.metric
    groups = len(np.unique(workspace.roles[scored.role].groups[: scored.n]))
    if scored.set_values is not None:
        before, after = scored.set_values
        drop = Interval(estimate=before - after, low=math.nan, high=math.nan)
        lost = won = 0
    else:
        before, after = float(scored.reference.mean()), float(scored.scores.mean())
        drops = scored.drops
        estimate = float(drops.mean())
        low, high = drop_bounds(drops, 1.96)
        drop = Interval(estimate=estimate, low=low, high=high)
        lost, won = int(np.sum(drops > 0)), int(np.sum(drops < 0))
    return Quality(
        metric=metric.name,
        kind=metric.kind,
        role=scored.role,
        n=scored.n,
        groups=groups,
        reference=before,
        candidate=after,
        drop=drop,
        lost=lost,
        won=won,
        changed=int(scored.changed.sum()),
        max_relative_error=float(scored.errors.max()),
    )


def drop_bounds(drops: np.ndarray, z: float) -> tuple[float, float]:
    """Agresti–Coull-like normal bounds on a mean drop: for racing and display, never for proof.

    z²/2 pseudo-examples of either sign keep the interval open when nothing has changed yet
    (Agresti and Min, Biometrics 61, 2005, for paired proportions).
    """
    n = len(drops) + z * z
    mean = float(drops.sum()) / n
    spread = math.sqrt(max(float(np.square(drops).sum() + z * z / 2) / n - mean * mean, 0.0) / n)
    return mean - z * spread, mean + z * spread
