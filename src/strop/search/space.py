"""The joint space: every recipe that applies to a model on a target, and what does not and why."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from strop import engines, techniques
from strop.engines import Engine
from strop.errors import StropError
from strop.models.model import Model
from strop.records import Applicability, Deployment, Recipe, Step, Target, Trial
from strop.techniques import Technique

_BUILD_SHARE = 0.05
"""Of the budget that one build of an engine may take."""


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
            (trial.recipe.start, trial.recipe.steps[: trial.failed_step + 1])
            for trial in history
            if trial.failed_step is not None
        ]
        return [
            recipe
            for recipe in self.recipes
            if recipe.id not in tried
            and not any(
                (recipe.start, recipe.steps[: len(prefix)]) == (start, prefix)
                for start, prefix in dead
            )
        ]

    def joined(self, other: JointSpace) -> JointSpace:
        """Both spaces as one, in canonical order, the simplest recipes of either first."""
        recipes = sorted((*self.recipes, *other.recipes), key=lambda recipe: len(recipe.steps))
        rejected = dict.fromkeys((*self.rejected, *other.rejected))
        return JointSpace(tuple(recipes), self.exact | other.exact, tuple(rejected))


def joint_space(
    model: Model,
    target: Target,
    *,
    only_engines: Sequence[str] | None = None,
    only_techniques: Sequence[str] | None = None,
    roles: Sequence[str] = ("calibrate",),
    seed: int = 0,
    start: str = "",
    seconds: float | None = None,
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
    start
        Name of `model` where it is not the original: its recipes are never exact, as their numbers
        are not the original's, and none of them runs a module, which no bundle can hold.
    seconds
        The budget: engines whose builds would take too much of it are left out unless they are
        named. None leaves none out.
    """
    rejected: list[tuple[str, str]] = []
    usable_engines: list[Engine] = []
    for name in engines.names():
        if only_engines is not None and name not in only_engines:
            rejected.append((name, "not among the engines that were named"))
            continue
        try:
            engine = engines.get(name)
        except StropError as error:  # a broken plug-in must not end the search
            rejected.append((name, str(error)))
            continue
        verdict = engine.available()
        verdict = verdict and engine.applies(model, target)
        if verdict and only_engines is None and seconds is not None:
            verdict = _affordable(engine, seconds)
        if verdict:
            usable_engines.append(engine)
        else:
            rejected.append((name, verdict.reason))
    usable_techniques: list[Technique] = []
    for name in techniques.names():
        named = only_techniques is None or name in only_techniques
        try:
            technique = techniques.get(name)
        except StropError as error:
            if named:
                rejected.append((name, str(error)))
            continue
        # What only prepares comes along unnamed: a technique that was named may need it.
        if not named and not technique.prepares:
            continue
        missing = [role for role in technique.roles if role not in roles]
        if missing and not named:
            continue
        if missing:
            rejected.append((name, f"needs examples for {', '.join(missing)}"))
            continue
        verdict = technique.applies(model, target)
        if verdict:
            usable_techniques.append(technique)
        elif named:
            rejected.append((name, verdict.reason))

    # Asked once: some techniques read the whole graph to answer.
    grids = {
        technique.name: tuple(technique.space(model, target).grid())
        for technique in usable_techniques
    }
    forms = tuple(model.forms)
    served = tuple(form for form in forms if not start or form != "module")
    recipes: dict[str, Recipe] = {}
    exact: set[str] = set()
    for pipeline in _pipelines(usable_techniques, forms):
        if not _is_purposeful(pipeline, forms):
            continue
        for engine in usable_engines:
            if not _fits(engine, pipeline, served):
                continue
            if not engine.takes_quantised and any(one.family == "int8" for one in pipeline):
                continue
            deployments = itertools.product(
                engine.space(model, target).grid(), placements(engine, target)
            )
            for options, (threads, streams) in deployments:
                if not all(technique.deploys(engine.name, options) for technique in pipeline):
                    continue
                for steps in _steps(pipeline, grids):
                    recipe = Recipe(
                        steps=steps,
                        deploy=Deployment(
                            engine=engine.name,
                            options=options,
                            device=target.device,
                            threads=threads,
                            streams=streams,
                            batch=target.batch,
                        ),
                        seed=seed,
                        start=start,
                    )
                    recipes.setdefault(recipe.id, recipe)
                    unchanged = all(item.exact for item in pipeline) and engine.is_exact(options)
                    if unchanged and not start:
                        exact.add(recipe.id)
    # Stable: within one length the order is the engines' and techniques' own, defaults first.
    ordered = sorted(recipes.values(), key=lambda recipe: len(recipe.steps))
    return JointSpace(tuple(ordered), frozenset(exact), tuple(rejected))


def _affordable(engine: Engine, seconds: float) -> Applicability:
    """Whether a build takes no more than a small part of the budget."""
    if engine.build_seconds <= _BUILD_SHARE * seconds:
        return Applicability.yes()
    return Applicability.no(
        f"a build takes some {engine.build_seconds:.0f} s, too much of a budget of "
        f"{seconds:.0f} s; name it with --engine to have it tried"
    )


def placements(engine: Engine, target: Target) -> list[tuple[int | None, int]]:
    """Threads of a call, and calls at once: one call that has all threads first.

    Only throughput and cost ask for more calls than one. The cores are then dealt out: two calls,
    one a core, and one a pair of cores, unless the user has said how many threads a call has.
    """
    alone = (target.threads, 1)
    if target.goal not in ("throughput", "cost") or not engine.streams:
        return [alone]
    cores = target.machine.cores
    if target.threads is not None:
        at_once = cores // target.threads
        return [alone, (target.threads, at_once)] if at_once > 1 else [alone]
    counts = sorted({2, cores // 2, cores})
    return [alone, *((cores // count, count) for count in counts if 1 < count <= cores)]


def original_recipe(model: Model, target: Target) -> Recipe:
    """The model as it was given, in its native runtime with that runtime's own defaults."""
    # The first form that it came in; a SavedModel is OpenVINO's, which alone has read it.
    natives = {"module": "torch", "onnx": "onnxruntime", "tflite": "litert", "openvino": "openvino"}
    known = [natives[form] for form in natives if form in model.forms] or ["onnxruntime"]
    name = next((one for one in known if _runs(one, model, target)), known[0])
    engine = engines.get(name)
    # What its own runtime does not run on the device stays on the CPU, and is compared with there.
    home = target if engine.applies(model, target) else target.model_copy(update={"device": "cpu"})
    return Recipe(
        deploy=Deployment(
            engine=name,
            options=engine.space(model, home).default,
            device=home.device,
            threads=target.threads,
            batch=target.batch,
        )
    )


def _runs(name: str, model: Model, target: Target) -> bool:
    engine = engines.get(name)
    return bool(engine.available() and engine.applies(model, target))


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


def _is_purposeful(pipeline: Sequence[Technique], forms: tuple[str, ...]) -> bool:
    """Whether what only prepares is followed at once by what needs the form that it makes."""
    for technique, following in zip(pipeline, (*pipeline[1:], None), strict=False):
        if technique.prepares and (following is None or following.consumes in forms):
            return False
        forms = technique.produces
    return True


def _fits(engine: Engine, pipeline: Sequence[Technique], forms: tuple[str, ...]) -> bool:
    current = pipeline[-1].produces if pipeline else forms
    if pipeline and len(current) > 1:
        # A changed module is for the next technique; what is served is what it was exported to.
        current = tuple(form for form in current if form != "module")
    return any(form in current for form in engine.consumes)


def _steps(
    pipeline: Sequence[Technique],
    grids: Mapping[str, Sequence[dict[str, Any]]],
    earlier: tuple[Step, ...] = (),
) -> Iterator[tuple[Step, ...]]:
    if not pipeline:
        yield earlier
        return
    head, *rest = pipeline
    for params in grids[head.name]:
        if head.follows(earlier, params):
            step = Step(technique=head.name, version=head.version, params=params)
            yield from _steps(rest, grids, (*earlier, step))
