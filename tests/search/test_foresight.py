from __future__ import annotations

import pytest

from strop.records import Deployment, Recipe, Step, Trial
from strop.search.foresight import Foresight, patience
from strop.search.space import JointSpace


def static(rounding: str, keep_float: float = 0.0) -> Step:
    params = {"rounding": rounding, "keep_float": keep_float}
    return Step(technique="int8-static", params=params)


CLEANUP = Step(technique="cleanup")
DISTIL = Step(technique="distil", params={"student": "narrow-0.5"})


def recipe(*steps: Step) -> Recipe:
    return Recipe(steps=steps, deploy=Deployment(engine="onnxruntime"))


def trial(found: Recipe, seconds: float, failed_step: int | None = None) -> Trial:
    return Trial(
        number=1,
        recipe=found,
        status="alive" if failed_step is None else "failed",
        stage="time" if failed_step is None else "build",
        failed_step=failed_step,
        seconds={"build": seconds},
    )


def begun(foresight: Foresight, race_left: float, *recipes: Recipe) -> list[Recipe]:
    return list(foresight.in_time(JointSpace(recipes, frozenset(), ()), race_left).recipes)


def test_where_nothing_is_known_everything_may_be_tried() -> None:
    asked = [recipe(), recipe(static("adaround")), recipe(CLEANUP, static("nearest"))]
    assert begun(Foresight(), 1.0, *asked) == asked


def test_the_likes_of_what_was_killed_are_not_begun_in_less_time() -> None:
    foresight = Foresight()
    foresight.note(trial(recipe(static("nearest")), 12.0))
    foresight.note(trial(recipe(CLEANUP, static("adaround")), 100.0, failed_step=1))
    like, quick = recipe(static("adaround", 0.1)), recipe(static("nearest", 0.1))
    assert begun(foresight, 300.0, like, quick) == [quick]
    assert begun(foresight, 500.0, like, quick) == [like, quick]


def test_a_step_that_was_built_is_kept_and_costs_nothing_again() -> None:
    foresight = Foresight()
    foresight.note(trial(recipe(static("adaround")), 300.0))
    again, other = recipe(CLEANUP, static("adaround")), recipe(static("adaround", 0.1))
    assert begun(foresight, 80.0, again, other) == [again]


def test_one_that_failed_is_as_slow_as_all_it_took_only_if_nothing_nearer_ended() -> None:
    foresight = Foresight()
    foresight.note(trial(recipe(static("adaround", 0.1)), 90.0, failed_step=0))
    foresight.note(trial(recipe(static("nearest", 0.1)), 5.0))
    assert foresight.seconds(static("nearest", 0.2)) == 5.0
    assert foresight.seconds(static("adaround", 0.2)) == 90.0
    assert foresight.seconds(CLEANUP) == 0.0


def test_a_cheap_failure_forbids_nothing() -> None:
    foresight = Foresight()
    foresight.note(trial(recipe(static("adaround")), 0.2, failed_step=0))
    assert begun(foresight, 1.0, recipe(static("adaround", 0.1)))


def test_training_is_left_to_the_purse() -> None:
    foresight = Foresight()
    foresight.note(trial(recipe(DISTIL), 900.0, failed_step=0))
    assert begun(foresight, 10.0, recipe(DISTIL))


@pytest.mark.parametrize(
    ("asked", "left", "seconds"),
    [
        (recipe(), 400.0, 100.0),
        (recipe(), 80.0, 30.0),
        (recipe(), 30.0, 24.0),
        (recipe(), 4.0, 20.0),
        (recipe(DISTIL, CLEANUP), 400.0, 400.0),
    ],
)
def test_patience_shrinks_with_the_time_left(asked: Recipe, left: float, seconds: float) -> None:
    assert patience(asked, left) == seconds
