"""From a recipe to an artefact on disk, through the cache."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from strop import engines, techniques
from strop.engines import Engine
from strop.errors import NotApplicable, StropError
from strop.models.model import Model, digest_of_tree
from strop.records import Placement, Recipe, SessionSpec, Step
from strop.search import purse
from strop.search.workspace import Workspace, reason_of


@dataclass(frozen=True)
class Built:
    """A recipe made real.

    Attributes
    ----------
    model
        The model after the last step, before the engine's build.
    folder
        The directory that holds the artefact and everything it needs.
    digest
        Of that directory's content: equal artefacts are one candidate.
    stopped
        Why the training of each trained step ended (`strop.records.Trial`).
    """

    recipe: Recipe
    model: Model
    spec: SessionSpec
    folder: Path
    digest: str
    stopped: tuple[str, ...] = ()


class StepFailed(StropError):
    """A technique could not be applied.

    Attributes
    ----------
    index
        Which step of the recipe it was.
    stopped
        Why the training of each step before it ended.
    """

    def __init__(self, index: int, error: StropError, stopped: tuple[str, ...] = ()) -> None:
        super().__init__(reason_of(error))
        self.index = index
        self.stopped = stopped


def build(workspace: Workspace, recipe: Recipe, *, timeout: float | None = None) -> Built:
    """Apply the steps and build for the engine; what was built before is not built again.

    Raises
    ------
    StepFailed
        A technique could not be applied; the message is the reason.
    StropError
        The engine could not build it.
    """
    model, payload = workspace.start_of(recipe)
    stopped: tuple[str, ...] = ()
    for index, step in enumerate(recipe.steps):
        try:
            model = _apply(workspace, model, payload, step, recipe.seed, timeout)
        except StropError as error:
            raise StepFailed(index, error, stopped) from error
        if purse.trains(step.technique):
            stopped = (*stopped, why_stopped(step.technique, model.meta))
    engine = engines.get(recipe.deploy.engine)
    folder = workspace.cache.get(
        {
            "kind": "artifact",
            "model": model.digest,
            "engine": engine.name,
            "version": engine.version,
            "options": recipe.deploy.options,
            "packages": _versions(engine.packages),
            "isa": list(workspace.target.machine.isa) if engine.native_artifact else [],
        },
        lambda empty: _build(workspace, engine, model, recipe, empty, timeout),
    )
    main = (folder / "MAIN").read_text().strip()
    spec = SessionSpec(
        engine=engine.name,
        artifact=str(folder / "artifact" / main),
        signature=model.signature,
        options=recipe.deploy.options,
        placement=Placement(
            device=recipe.deploy.device,
            threads=recipe.deploy.threads or workspace.target.machine.cores,
            streams=recipe.deploy.streams,
        ),
    )
    digest = digest_of_tree(folder / "artifact")
    return Built(recipe, model, spec, folder / "artifact", digest, stopped)


def why_stopped(technique: str, meta: Mapping[str, Any]) -> str:
    """Why the training that a technique told of in a model's ``meta`` ended; empty if it did not.

    Of several runs the last counts: it is the one that left the network.

    Examples
    --------
    >>> why_stopped("qat", {"qat": {"steps": 80, "stopped": "early"}})
    'early'
    >>> why_stopped("prune", {"prune": {"recovery": [{"stopped": "done"}, {"stopped": "time"}]}})
    'time'
    """
    told = meta.get(technique) or {}
    last = (told.get("recovery") or [told])[-1]
    return str(last.get("stopped") or "")


def operator_counts(model: Model) -> dict[str, Any]:
    """Operators before and after the graph clean-up, as the fields of `Evidence`.

    Empty for a model that was not cleaned up.
    """
    names = ("operators_before", "operators_after")
    return {name: int(model.meta[name]) for name in names if name in model.meta}


def batch_invariant(recipe: Recipe) -> bool:
    """Whether examples may be scored in larger batches than they will be served in."""
    return all(techniques.get(step.technique).batch_invariant for step in recipe.steps)


def trains(recipe: Recipe) -> bool:
    """Whether a step of the recipe trains."""
    return any(purse.trains(step.technique) for step in recipe.steps)


def _apply(
    workspace: Workspace,
    model: Model,
    payload: np.ndarray | None,
    step: Step,
    seed: int,
    timeout: float | None,
) -> Model:
    technique = techniques.get(step.technique)
    if "prove" in technique.roles:
        # Whatever a plug-in learns there could be proven there no more.
        raise StropError(f"{technique.name} asks for the proof set: no technique may see it")
    roles = {role: workspace.roles[role] for role in technique.roles}
    key = {
        "kind": "model",
        "model": model.digest,
        "technique": technique.name,
        "version": technique.version,
        "params": step.params,
        "roles": {role: dataset.digest for role, dataset in roles.items()},
        "isa": list(workspace.target.machine.isa),
        "seed": seed,
        "packages": _versions(technique.packages),
    }
    trained = "train" in technique.roles
    if trained:  # what it becomes depends on whom it learns from, and for how long
        metric = workspace.metric.name
        key |= {"teacher": workspace.model.digest, "metric": metric, "purse": workspace.share}
    phase = workspace.clock.phase("train") if trained else contextlib.nullcontext()

    def make(empty: Path) -> None:
        with phase:
            workspace.call(
                "build",
                "apply_technique",
                timeout=timeout,
                technique=step.technique,
                params=step.params,
                model=str(model.path),
                payload=payload if trained or technique.consumes == "module" else None,
                teacher_payload=workspace.payload if trained else None,
                workdir=str(empty),
                roles={role: dataset.describe() for role, dataset in roles.items()},
                target=workspace.target.to_dict(),
                seed=seed,
                seconds=timeout,
                training=_training(workspace, key) if trained else None,
            )

    try:
        entry = workspace.cache.get(key, make)
    except NotApplicable:
        workspace.cache.forget(key)  # tried again, it would go the same way
        raise
    if trained:
        workspace.cache.forget(key)
    return Model.open(entry)


def _training(workspace: Workspace, key: Mapping[str, Any]) -> dict[str, Any]:
    """What a technique that trains is told besides the rest."""
    return {
        "teacher": str(workspace.model.path),
        "keep": str(workspace.cache.kept(key)),
        "seconds": workspace.share,
        "metric": workspace.metric.name,
        "student": workspace.student,
    }


def _build(
    workspace: Workspace,
    engine: Engine,
    model: Model,
    recipe: Recipe,
    empty: Path,
    timeout: float | None,
) -> None:
    folder = empty / "artifact"
    folder.mkdir()
    main: Any = workspace.call(
        "build",
        "build",
        timeout=timeout,
        engine=engine.name,
        model=str(model.path),
        options=recipe.deploy.options,
        workdir=str(folder),
    )
    (empty / "MAIN").write_text(str(main))


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found
