from __future__ import annotations

import json
import math

import pytest

from strop.errors import StropError
from strop.records import Deployment, Interval, Recipe, Step, TrialFinished, read_event
from strop.records.trial import Trial


def recipe(**params: object) -> Recipe:
    return Recipe(
        steps=(Step(technique="int8-static", params=dict(params)),),
        deploy=Deployment(engine="onnxruntime", options={"graph": "all"}),
    )


def test_equal_recipes_have_equal_ids_whatever_the_order_of_keys() -> None:
    assert recipe(a=1, b=2).id == recipe(b=2, a=1).id
    assert recipe(a=1, b=2).id != recipe(a=1, b=3).id


def test_records_survive_json() -> None:
    one = recipe(alpha=0.5)
    assert Recipe.from_json(one.to_json()) == one
    assert Recipe.from_json(one.to_json(indent=1)).id == one.id


def test_json_is_strict_even_where_a_bound_is_infinite() -> None:
    text = Interval(estimate=1.0, low=math.nan, high=math.inf).to_json()

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    json.loads(text, parse_constant=refuse)
    back = Interval.from_json(text)
    assert math.isnan(back.low)
    assert back.high == math.inf


def test_unknown_keys_are_refused_with_the_place() -> None:
    with pytest.raises(StropError, match="novelty"):
        Recipe.from_dict({**recipe().to_dict(), "novelty": 1})


def test_records_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        recipe().seed = 3  # type: ignore[misc]


def test_events_are_told_apart_by_their_name() -> None:
    trial = Trial(number=3, recipe=recipe(), status="alive", stage="time")
    event = read_event(TrialFinished(trial=trial, elapsed=1.5).to_json())
    assert isinstance(event, TrialFinished)
    assert event.trial == trial
