from __future__ import annotations

import pytest

from strop.errors import InputError
from strop.records import Deployment, Evidence, Interval, Quality, Recipe, Step, Trial
from strop.search import Request
from strop.search.purse import SHARES, Purse, shares, trained_prefixes, untrained
from strop.search.space import JointSpace

INT8 = Step(technique="int8-static", params={"per_channel": True})


def distil(student: str) -> Step:
    return Step(technique="distil", params={"student": student})


def recipe(*steps: Step, engine: str = "onnxruntime") -> Recipe:
    return Recipe(steps=steps, deploy=Deployment(engine=engine))


def trial(found: Recipe, number: int = 1, **changes: object) -> Trial:
    plain = Trial(number=number, recipe=found, status="alive", stage="time", evidence=Evidence())
    return plain.model_copy(update=changes)


def space(*recipes: Recipe) -> JointSpace:
    return JointSpace(recipes, frozenset(), ())


A, B, C, D = (distil(name) for name in "abcd")


def test_a_recipe_is_trained_up_to_its_last_trained_step() -> None:
    assert trained_prefixes(recipe(A, INT8)) == [(A,)]
    assert trained_prefixes(recipe(INT8)) == []


def test_the_purse_pays_for_its_shares_and_for_what_is_trained_already() -> None:
    purse = Purse(300.0)
    everything = space(recipe(INT8), recipe(A), recipe(A, INT8), recipe(B), recipe(C), recipe(D))
    assert purse.affordable(everything, 1e6) == everything
    for number, step in enumerate((A, B, C)):
        assert recipe(step) in purse.affordable(everything, 1e6).recipes
        purse.note(trial(recipe(step), number, seconds={"train": 105.0, "build": 3.0}), 0.01)
    left = purse.affordable(everything, 1e6).recipes
    assert left == tuple(r for r in everything.recipes if r != recipe(D))


def test_training_that_ends_early_leaves_room_for_more() -> None:
    purse = Purse(300.0)
    for number, step in enumerate((A, B, C)):
        purse.note(trial(recipe(step), number, seconds={"train": 20.0}), 0.01)
    assert purse.affordable(space(recipe(D)), 1e6).recipes


def test_no_training_is_begun_that_the_race_will_not_see_the_end_of() -> None:
    purse = Purse(300.0)
    everything = space(recipe(INT8), recipe(A), recipe(B, INT8))
    purse.note(trial(recipe(B), seconds={"train": 90.0}), 0.01)
    assert purse.affordable(everything, 100.0).recipes == (recipe(INT8), recipe(B, INT8))


def test_a_step_that_failed_is_not_trained() -> None:
    purse = Purse(30.0)
    purse.note(trial(recipe(A), status="failed", failed_step=0, seconds={"train": 30.0}), 0.01)
    assert not purse.affordable(space(recipe(A, INT8)), 1e6).recipes
    other = Purse(30.0)
    failed = trial(recipe(A, INT8), status="failed", failed_step=1, seconds={"train": 30.0})
    other.note(failed, 0.01)
    assert other.affordable(space(recipe(A)), 1e6).recipes


def test_a_trained_network_far_outside_the_tolerance_is_not_built_upon() -> None:
    def lost(drop: float) -> tuple[Recipe, ...]:
        interval = Interval(estimate=drop, low=drop, high=drop, confidence=0.95)
        quality = Quality(
            metric="accuracy",
            kind="binary",
            role="search",
            n=100,
            groups=100,
            reference=0.9,
            candidate=0.9 - drop,
            drop=interval,
            lost=0,
            won=0,
            changed=0,
            max_relative_error=0.0,
        )
        purse = Purse(30.0)
        evidence = Evidence(search_quality=quality)
        purse.note(trial(recipe(A, INT8), status="dropped", evidence=evidence), 0.01)
        return purse.affordable(space(recipe(A), recipe(B), recipe(INT8)), 1e6).recipes

    assert lost(0.02) == (recipe(A), recipe(B), recipe(INT8))
    assert lost(0.2) == (recipe(B), recipe(INT8))


def test_what_was_never_trained_is_told() -> None:
    history = [trial(recipe(A))]
    assert untrained(space(recipe(A), recipe(B, INT8), recipe(INT8)), history) == [str(B)]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"train": "t.npz", "budget": "10m"}, 330.0),
        ({"train": "t.npz", "budget": "10m", "train_budget": "2m"}, 120.0),
        ({"train": "t.npz", "train_budget": 0}, 0.0),
        ({}, 0.0),
    ],
)
def test_how_long_training_may_take(given: dict[str, object], wanted: float) -> None:
    request = Request(model="m", data="d", within="1%", output="o", **given)
    request.check()
    assert request.train_seconds == pytest.approx(wanted)
    assert request.train_rest == (bool(wanted) and "train_budget" not in given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train": "t.npz", "budget": "5m", "train_budget": "5m"}, "all of the budget"),
        ({"student": "a.py:f"}, "a student but nothing to train on"),
        ({"train_budget": "5m"}, "a training budget but nothing to train on"),
    ],
)
def test_training_that_makes_no_sense_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Request(model="m", data="d", within="1%", output="o", **given).check()


def test_shares_are_equal() -> None:
    assert Purse(30.0).share * SHARES == 30.0
    assert Purse(30.0, 2).share == 15.0


def test_few_trained_steps_get_more_of_the_time_each() -> None:
    everything = space(recipe(INT8), recipe(A), recipe(A, INT8), recipe(A, B), recipe(C))
    assert shares(everything) == SHARES
    assert shares(space(recipe(INT8), recipe(A), recipe(A, INT8))) == 1
    assert shares(space(recipe(INT8))) == 1


def cut_short(purse: Purse, steps: tuple[Step, ...], *stopped: str) -> None:
    why = stopped or ("time",) * len(steps)
    purse.note(trial(recipe(*steps), seconds={"train": 50.0}, stopped=why), 0.01)


PARAMS = {"transfer": "features", "temperature": 2.0, "labels": 0.1, "rows": "all"}
NARROW = Step(technique="distil", version=3, params={"student": "narrow-0.5", **PARAMS})


def test_time_that_nothing_else_wants_teaches_a_student_on_that_was_cut_short() -> None:
    purse = Purse(300.0)
    everything = space(recipe(INT8), recipe(NARROW), recipe(NARROW, INT8), recipe(B))
    assert not purse.taught_on(everything, 1e6).recipes
    cut_short(purse, (NARROW,))
    cut_short(purse, (B,), "early")  # that one ended because it was done
    alone, quantised = purse.taught_on(everything, 120.0).recipes
    more = alone.steps[1]
    assert alone == recipe(NARROW, more) and quantised == recipe(NARROW, more, INT8)
    assert (more.technique, more.params) == (
        "distil",
        {"student": "same", **PARAMS, "seconds": 60.0},
    )
    assert not purse.taught_on(everything, 40.0).recipes, "too little to be worth it"


def test_a_student_is_taught_on_once_and_what_follows_it_is_free() -> None:
    purse = Purse(300.0)
    everything = space(recipe(NARROW), recipe(NARROW, INT8))
    cut_short(purse, (NARROW,))
    more = purse.taught_on(everything, 120.0).recipes[0].steps[1]
    cut_short(purse, (NARROW, more))
    left = purse.taught_on(everything, 30.0).recipes
    assert left == (recipe(NARROW, more), recipe(NARROW, more, INT8))
    assert purse.taught_on(everything, 500.0).recipes == left, "not again with other seconds"


def test_what_leaves_no_network_to_teach_is_not_taught_on() -> None:
    purse = Purse(300.0)
    qat = Step(technique="qat", params={})
    cut_short(purse, (qat,))
    cut_short(purse, (NARROW, qat))
    both = space(recipe(qat), recipe(NARROW, qat), recipe(NARROW))
    assert [it.steps[:-1] for it in purse.taught_on(both, 500.0).recipes] == [(NARROW,)]


def test_why_a_step_stopped_is_told_by_any_trial_that_has_it() -> None:
    purse = Purse(300.0)
    failed = trial(recipe(NARROW, INT8), status="failed", failed_step=1, stopped=("time",))
    purse.note(failed, 0.01)
    assert purse.taught_on(space(recipe(NARROW)), 500.0).recipes
    both = Purse(300.0)
    cut_short(both, (NARROW, B), "early", "time")
    assert not both.taught_on(space(recipe(NARROW)), 500.0).recipes


def test_only_techniques_of_the_space_teach_on() -> None:
    purse = Purse(300.0)
    prune = Step(technique="prune", params={"ratio": 0.5, "temperature": 4.0, "labels": 0.3})
    cut_short(purse, (prune,))
    assert not purse.taught_on(space(recipe(prune)), 500.0).recipes
    (found,) = purse.taught_on(space(recipe(prune), recipe(B)), 500.0).recipes
    assert found.steps[0] == prune and found.steps[1].params["student"] == "same"
    assert "ratio" not in found.steps[1].params


def test_a_student_far_outside_the_tolerance_is_not_taught_on() -> None:
    purse = Purse(30.0)
    lost = Interval(estimate=0.2, low=0.2, high=0.2, confidence=0.95)
    quality = Quality(
        metric="accuracy",
        kind="binary",
        role="search",
        n=100,
        groups=100,
        reference=0.9,
        candidate=0.7,
        drop=lost,
        lost=20,
        won=0,
        changed=20,
        max_relative_error=0.0,
    )
    found = trial(recipe(NARROW), evidence=Evidence(search_quality=quality), stopped=("time",))
    purse.note(found, 0.01)
    assert not purse.taught_on(space(recipe(NARROW)), 500.0).recipes
    other = Purse(30.0)
    other.note(found, 0.1)
    assert other.taught_on(space(recipe(NARROW)), 500.0).recipes
