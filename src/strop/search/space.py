"""The joint space: every recipe that applies to a model on a target, and what does not and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from strop import engines, techniques
from strop.engines import Engine
from strop.errors import StropError
from strop.models.model import Model
from strop.records import Deployment, Recipe, Step, Target, Trial
from strop.techniques import Technique


@dataclass(frozen=True)
class JointSpace:
    """A finite set of recipes in canonical order.

    Attributes
    ----------
    recipes
        Every candidate once, simplest first.
    exact
        Ids of the recipes that keep the original's numbers up to rounding: only these may claim
        equivalence.
    rejected
        Engines and techniques that do not apply, with the reason that users see.
    """

    recipes: tuple[Recipe, ...]
    exact: frozenset[str]
    rejected: tuple[tuple[str, str], ...]

    def is_exact(self, recipe: Recipe) -> bool:
        return recipe.id in self.exact

    def untried(self, history: Sequence[Trial]) -> list[Recipe]:
        """The recipes worth proposing after `history`, in canonical order.

        Left out are those that a trial has, and those that begin with steps that could not be
        applied.
        """
        tried = {trial.recipe.id for trial in history}
        dead = [
            trial.recipe.steps[: trial.failed_step + 1]
            for trial in history
            if trial.failed_step is not None
        ]
        return [
            recipe
            for recipe in self.recipes
            if recipe.id not in tried
            and not any(recipe.steps[: len(prefix)] == prefix for prefix in dead)
        ]


def joint_space(
    model: Model,
    target: Target,
    *,
    only_engines: Sequence[str] | None = None,
    only_techniques: Sequence[str] | None = None,
    roles: Sequence[str] = ("calibrate",),
    seed: int = 0,
) -> JointSpace:
    """Every recipe for `model` on `target`.

    A pipeline takes at most one technique a stage, in the order of their stages, and at most one
    of a family; each must read a form that the one before it wrote, and the engine must take one
    of the last forms.

    Parameters
    ----------
    only_engines, only_techniques
        Names to keep; None keeps all that are installed.
    roles
        Roles for which there are examples: techniques that need another role are left out.
    """
    rejected: list[tuple[str, str]] = []
    usable_engines: list[Engine] = []
    for name in engines.names():
        if only_engines is not None and name not in only_engines:
            continue
        try:
            engine = engines.get(name)
        except StropError as error:  # a broken plug-in must not end the search
            rejected.append((name, str(error)))
            continue
        verdict = engine.available()
        verdict = verdict and engine.applies(model, target)
        if verdict:
            usable_engines.append(engine)
        else:
            rejected.append((name, verdict.reason))
    usable_techniques: list[Technique] = []
    for name in techniques.names():
        if only_techniques is not None and name not in only_techniques:
            continue
        try:
            technique = techniques.get(name)
        except StropError as error:
            rejected.append((name, str(error)))
            continue
        missing = [role for role in technique.roles if role not in roles]
        if missing:
            rejected.append((name, f"needs examples for {', '.join(missing)}"))
            continue
        verdict = technique.applies(model, target)
        if verdict:
            usable_techniques.append(technique)
        else:
            rejected.append((name, verdict.reason))

    # Asked once: some techniques read the whole graph to answer.
    grids = {
        technique.name: tuple(technique.space(model, target).grid())
        for technique in usable_techniques
    }
    recipes: dict[str, Recipe] = {}
    exact: set[str] = set()
    for pipeline in _pipelines(usable_techniques, tuple(model.forms)):
        for engine in usable_engines:
            if not _fits(engine, pipeline, tuple(model.forms)):
                continue
            for options in engine.space(model, target).grid():
                for steps in _steps(pipeline, grids):
                    recipe = Recipe(
                        steps=steps,
                        deploy=Deployment(
                            engine=engine.name,
                            options=options,
                            device=target.device,
                            threads=target.threads,
                            batch=target.batch,
                        ),
                        seed=seed,
                    )
                    recipes.setdefault(recipe.id, recipe)
                    if all(item.exact for item in pipeline) and engine.is_exact(options):
                        exact.add(recipe.id)
    # Stable: within one length the order is the engines' and techniques' own, defaults first.
    ordered = sorted(recipes.values(), key=lambda recipe: len(recipe.steps))
    return JointSpace(tuple(ordered), frozenset(exact), tuple(rejected))


def original_recipe(model: Model, target: Target) -> Recipe:
    """The model as it was given, in its native runtime with that runtime's own defaults."""
    name = "torch" if "module" in model.forms else "onnxruntime"
    engine = engines.get(name)
    return Recipe(
        deploy=Deployment(
            engine=name,
            options=engine.space(model, target).default,
            device=target.device,
            threads=target.threads,
            batch=target.batch,
        )
    )


def _pipelines(
    usable: Sequence[Technique], forms: tuple[str, ...]
) -> Iterator[tuple[Technique, ...]]:
    stages = sorted({technique.stage for technique in usable})

    def extend(
        index: int, chosen: tuple[Technique, ...], current: tuple[str, ...]
    ) -> Iterator[tuple[Technique, ...]]:
        if index == len(stages):
            yield chosen
            return
        yield from extend(index + 1, chosen, current)
        for technique in usable:
            if (
                technique.stage == stages[index]
                and technique.consumes in current
                and not any(technique.family and one.family == technique.family for one in chosen)
            ):
                yield from extend(index + 1, (*chosen, technique), technique.produces)

    yield from extend(0, (), forms)


def _fits(engine: Engine, pipeline: Sequence[Technique], forms: tuple[str, ...]) -> bool:
    current = pipeline[-1].produces if pipeline else forms
    return any(form in current for form in engine.consumes)


def _steps(
    pipeline: Sequence[Technique], grids: Mapping[str, Sequence[dict[str, Any]]]
) -> Iterator[tuple[Step, ...]]:
    if not pipeline:
        yield ()
        return
    head, *rest = pipeline
    for params in grids[head.name]:
        step = Step(technique=head.name, version=head.version, params=params)
        for tail in _steps(rest, grids):
            yield (step, *tail)
