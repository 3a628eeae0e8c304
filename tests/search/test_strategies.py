"""Strategies on a synthetic space whose best recipe is known."""

from __future__ import annotations

import itertools
import math
import zlib

import pytest

from strop.records import Deployment, Evidence, Interval, Quality, Recipe, Speedup, Step, Trial
from strop.search import strategies
from strop.search.space import JointSpace

TOLERANCE = 0.01
_REACHES = ("wide", "narrow")


def synthetic_space() -> JointSpace:
    recipes, exact = [], set()
    for engine, options in (
        ("onnxruntime", {"graph": "all"}),
        ("onnxruntime", {"graph": "basic"}),
        ("openvino", {"precision": "f32"}),
        ("openvino", {"precision": "bf16"}),
    ):
        deploy = Deployment(engine=engine, options=options)
        plain = Recipe(deploy=deploy)
        recipes.append(plain)
        if options != {"precision": "bf16"}:
            exact.add(plain.id)
        for keep, calibrator in itertools.product((0.0, 0.1, 0.2, 0.4), ("minmax", "mse")):
            step = Step(
                technique="int8-static", params={"keep_float": keep, "calibrator": calibrator}
            )
            recipes.append(Recipe(steps=(step,), deploy=deploy))
        recipes.append(Recipe(steps=(Step(technique="int8-dynamic"),), deploy=deploy))
    return JointSpace(tuple(recipes), frozenset(exact), ())


@pytest.mark.parametrize("needed", [0.0, 0.1])
def test_what_rounding_alone_says_of_layers_in_float_tells_training_which_to_keep(
    needed: float,
) -> None:
    deploy = Deployment(engine="onnxruntime")
    static, trained = (
        [Recipe(steps=(Step(technique=name, params={"keep_float": keep}),), deploy=deploy)
         for keep in (0.0, 0.1)]
        for name in ("int8-static", "qat")
    )  # fmt: skip
    space = JointSpace((Recipe(deploy=deploy), *static, *trained), frozenset(), ())
    history = [scored(0, Recipe(deploy=deploy), 1.0, 0.0)]
    for number, recipe in enumerate(static, start=1):
        kept = float(recipe.steps[0].params["keep_float"])
        history.append(scored(number, recipe, 2.4 - 2 * kept, 0.0 if kept >= needed else 0.04))
    proposed = strategies.get("evidence").propose(space, history, tolerance=TOLERANCE, seed=0)
    assert proposed is not None and proposed.steps[0].technique == "qat"
    assert proposed.steps[0].params["keep_float"] == needed


def truth(recipe: Recipe) -> tuple[float, float]:
    """Speed-up and drop: INT8 is fastest, and only holds with a fifth of the layers in float."""
    ratio, drop = 1.0, 0.0
    if recipe.deploy.engine == "openvino":
        ratio *= 1.2
    if recipe.deploy.options.get("graph") == "basic":
        ratio *= 0.8
    if recipe.deploy.options.get("precision") == "bf16":
        ratio, drop = ratio * 1.5, drop + 0.02
    for step in recipe.steps:
        if step.technique == "int8-dynamic":
            return 0.1, 0.01
        keep = step.params["keep_float"]
        ratio *= 2.2 - keep
        drop += max(0.0, 0.08 - 0.4 * keep) * (0.8 if step.params["calibrator"] == "mse" else 1.0)
    wiggle = zlib.crc32(recipe.id.encode()) % 100 / 5000
    return ratio * (1 + wiggle), drop


def tried(number: int, recipe: Recipe) -> Trial:
    return scored(number, recipe, *truth(recipe))


def scored(number: int, recipe: Recipe, ratio: float, drop: float) -> Trial:
    quality = Quality(
        metric="accuracy",
        kind="binary",
        role="search",
        n=1000,
        groups=1000,
        reference=0.9,
        candidate=0.9 - drop,
        drop=Interval(estimate=drop, low=drop - 0.005, high=drop + 0.005),
        lost=0,
        won=0,
        changed=0,
        max_relative_error=0.1,
    )
    outside = drop - 0.005 > TOLERANCE
    speedup = Speedup(
        against="anchor",
        batch=1,
        ratio=Interval(estimate=ratio, low=ratio * 0.98, high=ratio * 1.02),
        launches=1,
    )
    return Trial(
        number=number,
        recipe=recipe,
        status="dropped" if outside else "alive",
        stage="evaluate" if outside else "time",
        evidence=Evidence(search_quality=quality, speedups=() if outside else (speedup,)),
        seconds={"build": 2.0, "evaluate": 1.0},
    )


def search(name: str, space: JointSpace, seed: int, limit: int | None = None) -> list[Trial]:
    strategy, history = strategies.get(name), list[Trial]()
    while limit is None or len(history) < limit:
        recipe = strategy.propose(space, history, tolerance=TOLERANCE, seed=seed)
        if recipe is None:
            break
        history.append(tried(len(history), recipe))
    return history


def trials_until_near_best(history: list[Trial], space: JointSpace) -> int:
    best = max(ratio for ratio, drop in map(truth, space.recipes) if drop < TOLERANCE)
    for count, trial in enumerate(history, start=1):
        ratio, drop = truth(trial.recipe)
        if drop < TOLERANCE and ratio >= 0.95 * best:
            return count
    raise AssertionError("the best was never tried")


@pytest.mark.parametrize("name", ["evidence", "random", "exhaustive"])
def test_every_recipe_is_proposed_exactly_once(name: str) -> None:
    space = synthetic_space()
    history = search(name, space, seed=1)
    assert sorted(trial.recipe.id for trial in history) == sorted(r.id for r in space.recipes)


@pytest.mark.parametrize("name", ["evidence", "random", "exhaustive"])
def test_proposals_depend_on_history_and_seed_alone(name: str) -> None:
    space = synthetic_space()
    history = search(name, space, seed=5, limit=9)
    again = search(name, space, seed=5, limit=9)
    assert history == again
    # A strategy made afresh, as after a crash, goes on as the old one would have.
    one = strategies.get(name).propose(space, history, tolerance=TOLERANCE, seed=5)
    assert one == strategies.get(name).propose(space, history, tolerance=TOLERANCE, seed=5)


def test_evidence_finds_a_near_best_recipe_sooner_than_random_and_exhaustive() -> None:
    space = synthetic_space()
    evidence = trials_until_near_best(search("evidence", space, seed=0), space)
    exhaustive = trials_until_near_best(search("exhaustive", space, seed=0), space)
    random = [
        trials_until_near_best(search("random", space, seed=seed), space) for seed in range(20)
    ]
    assert evidence < exhaustive
    assert evidence < math.fsum(random) / len(random)


def test_an_engine_that_cannot_run_does_not_use_up_the_search() -> None:
    """It loads, and each of its runs fails: what that says is said of it, and of no technique."""
    space, strategy = synthetic_space(), strategies.get("evidence")
    history: list[Trial] = []
    while (recipe := strategy.propose(space, history, tolerance=TOLERANCE, seed=0)) is not None:
        found = tried(len(history), recipe)
        if recipe.deploy.engine == "openvino":
            found = Trial(
                number=len(history),
                recipe=recipe,
                status="failed",
                stage="evaluate",
                reason="driver too old",
                seconds={"build": 2.0, "evaluate": 1.0},
            )
        history.append(found)
    failed = [trial.recipe.deploy.engine == "openvino" for trial in history]
    last = max(number for number, on_it in enumerate(failed) if not on_it)
    assert len(history) == len(space.recipes)
    assert sum(failed[:last]) <= 4, "two of each of its two settings, and the others come first"


def test_a_precision_that_is_too_lossy_by_itself_comes_last() -> None:
    space, strategy = synthetic_space(), strategies.get("evidence")
    history: list[Trial] = []
    while (recipe := strategy.propose(space, history, tolerance=TOLERANCE, seed=0)) is not None:
        ratio, drop = truth(recipe)
        if recipe.deploy.options.get("precision") == "bf16":
            drop += 2 * TOLERANCE
        history.append(scored(len(history), recipe, ratio, drop))
    lossy = [trial.recipe.deploy.options.get("precision") == "bf16" for trial in history]
    plain = next(n for n, trial in enumerate(history) if lossy[n] and not trial.recipe.steps)
    last = max(number for number, one in enumerate(lossy) if not one)
    assert len(history) == len(space.recipes)
    assert not any(lossy[plain + 1 : last])


def test_what_int8_loses_in_every_layer_moves_the_search_to_layers_in_float() -> None:
    places = [
        Deployment(engine="onnxruntime", options={"graph": "all", "spinning": True}),
        Deployment(engine="onnxruntime", options={"graph": "all", "spinning": False}),
        Deployment(engine="openvino", options={"precision": "f32"}),
    ]
    plain = [Recipe(deploy=place) for place in places]
    recipes = list(plain)
    for clean, keep, calibrator, reach in itertools.product(
        ((), (Step(technique="cleanup"),)), (0.0, 0.05, 0.1, 0.2), ("mse", "minmax"), _REACHES
    ):
        params = {"keep_float": keep, "calibrator": calibrator, "reach": reach}
        steps = (*clean, Step(technique="int8-static", params=params))
        recipes += [Recipe(steps=steps, deploy=place) for place in places]
    space = JointSpace(tuple(recipes), frozenset(recipe.id for recipe in plain), ())
    ratios = {0.0: 2.5, 0.05: 2.3, 0.1: 2.05, 0.2: 1.8}
    drops = {0.0: 0.022, 0.05: 0.016, 0.1: 0.008, 0.2: 0.007}
    history: list[Trial] = []
    kept = None
    while not kept:
        recipe = strategies.get("evidence").propose(space, history, tolerance=TOLERANCE, seed=0)
        assert recipe is not None
        ratio, drop, kept = 1.0, 0.0, None
        if recipe.steps:
            kept = recipe.steps[-1].params["keep_float"]
            ratio, drop = ratios[kept], drops[kept]
        new = recipe.steps and all(trial.recipe.steps != recipe.steps for trial in history)
        seconds = {"build": 30.0 if new else 0.2, "evaluate": 7.0}
        trial = scored(len(history), recipe, ratio, drop)
        history.append(trial.model_copy(update={"seconds": seconds}))
    assert len(history) <= 6, "two engines as they are, and two or three of INT8 all through"


def test_what_is_built_is_worth_trying_on_the_other_engine_before_building_another() -> None:
    space = synthetic_space()
    wanted = {"onnxruntime": {"graph": "all"}, "openvino": {"precision": "f32"}}
    plain = [
        recipe
        for recipe in space.recipes
        if not recipe.steps and wanted[recipe.deploy.engine] == recipe.deploy.options
    ]
    built = next(
        recipe
        for recipe in space.recipes
        if recipe.steps and recipe.deploy.options == wanted["openvino"]
    )
    history = [
        tried(number, recipe).model_copy(
            update={"seconds": {"build": 60.0 if recipe.steps else 0.1, "evaluate": 1.0}}
        )
        for number, recipe in enumerate([*plain, built])
    ]
    proposed = strategies.get("evidence").propose(space, history, tolerance=0.2, seed=0)
    assert proposed is not None
    assert proposed.steps == built.steps
    assert proposed.deploy.options != built.deploy.options
