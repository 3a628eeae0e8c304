"""What is to be profiled: a model on each engine, or a bundle on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from strop import engines
from strop.bundle import read_manifest
from strop.bundle.layout import MANIFEST, MODEL, verify_files
from strop.bundle.loader import session_spec
from strop.errors import BundleError, InputError, StropError
from strop.models.model import Model
from strop.records import Applicability, Deployment, Placement, Recipe, SessionSpec, Target
from strop.search import Request
from strop.search.intake import import_model
from strop.search.workspace import reason_of, rethrown
from strop.workers import ChildError, Pool


@dataclass(frozen=True)
class Subject:
    """One session to profile.

    Attributes
    ----------
    recipe
        How it was deployed, for people.
    payload
        A live module's pickle as uint8[n], where the engine needs one.
    graph
        The ONNX file that says what its nodes cost; None where there is none.
    own_graph
        Whether that is the graph that runs, not the one that it was made from.
    """

    engine: str
    recipe: str
    spec: SessionSpec
    payload: np.ndarray | None
    graph: Path | None
    own_graph: bool


def is_bundle(given: Any) -> bool:
    """Whether `given` is the path of a bundle."""
    return isinstance(given, str | Path) and (Path(given) / MANIFEST).is_file()


def open_bundle(path: Path, target: Target, trust: bool, original: Model | None) -> Subject:
    """A bundle on its own engine.

    Parameters
    ----------
    original
        The model that it was made from: where an artefact is no ONNX file, its nodes are counted
        in place of the bundle's.

    Raises
    ------
    BundleError
        When the bundle is damaged.
    """
    manifest = read_manifest(path)
    spec = session_spec(path, manifest, trust=trust, threads=target.threads)
    if wrong := verify_files(path, manifest, MODEL):
        raise BundleError(
            f"the bundle '{path}' is damaged: {wrong[0]}", hint="copy or build it again"
        )
    own = manifest.form == "onnx"
    graph = None if original is None else original.forms.get("onnx")
    return Subject(
        engine=spec.engine,
        recipe=str(manifest.recipe),
        spec=spec,
        payload=None,
        graph=Path(spec.artifact) if own else graph,
        own_graph=own,
    )


def open_model(
    model: Model,
    payload: np.ndarray | None,
    target: Target,
    wanted: Sequence[str] | None,
    pool: Pool,
    folder: Path,
) -> tuple[list[Subject], dict[str, str]]:
    """A model on each engine, with the engine's defaults, and the engines that refuse it and why.

    Parameters
    ----------
    wanted
        Names of engines; None means all that are installed.
    folder
        Where artefacts are built.

    Raises
    ------
    InputError
        When no engine can run it.
    """
    subjects: list[Subject] = []
    skipped: dict[str, str] = {}
    for name in wanted or engines.names():
        try:
            subjects.append(_built(model, payload, target, name, pool, folder / name))
        except StropError as error:
            if wanted and isinstance(error, InputError) and name not in engines.names():
                raise
            skipped[name] = reason_of(error)
    if not subjects:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise InputError(f"no engine can run the model ({reasons})")
    return subjects, skipped


def import_one(
    request: Request, given: Any, pool: Pool, folder: Path
) -> tuple[Model, np.ndarray | None]:
    """A model, imported into `folder`, and its pickle where it is live."""
    folder.mkdir()
    return import_model(replace(request, model=given), pool, folder)


def _built(
    model: Model,
    payload: np.ndarray | None,
    target: Target,
    name: str,
    pool: Pool,
    folder: Path,
) -> Subject:
    engine = engines.get(name)
    answer: Applicability = engine.available() and engine.applies(model, target)
    if not answer:
        raise StropError(answer.reason)
    if type(engine).profile is engines.Engine.profile:  # told before a build that may take long
        raise StropError(f"the engine '{name}' keeps no times of its operators")
    options = engine.space(model, target).default
    folder.mkdir(parents=True)
    try:
        with rethrown():
            main = pool.child("build").call(
                "strop.search.jobs:build",
                engine=name,
                model=str(model.path),
                options={**options, **engine.profile_options},
                workdir=str(folder),
            )
    except ChildError as error:
        raise StropError(reason_of(error)) from error
    form = next(form for form in engine.consumes if form in model.forms)
    deployment = Deployment(
        engine=name,
        options=options,
        device=target.device,
        threads=target.threads,
        batch=target.batch,
    )
    return Subject(
        engine=name,
        recipe=str(Recipe(deploy=deployment)),
        spec=SessionSpec(
            engine=name,
            artifact=str(folder / main),
            signature=model.signature,
            options=options,
            placement=Placement(device=target.device, threads=target.thread_count),
        ),
        payload=payload if form == "module" else None,
        graph=model.forms.get("onnx") if form in ("onnx", "openvino") else None,
        own_graph=True,
    )
