"""A rate decides what is cheaper: whole machines are paid, whatever they have left to do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from strop.measure import PairTiming, describe
from strop.records import Deployment, Evidence, Price, Recipe, Target, Trial
from strop.search.machines import saves_none
from strop.search.retiming import not_better


def timing(faster: float, *, noise: float = 0.005) -> PairTiming:
    """The equivalent makes 100 examples a second, the candidate so many times as many."""
    random = np.random.default_rng(0)
    logs = np.log(faster) + random.normal(0, noise, 10)
    b = 0.01 / np.exp(logs)
    return PairTiming(
        log_ratios=logs,
        quads=tuple(np.array([[0.01, one, one, 0.01]]) for one in b),
        a_seconds=(np.full(100, 0.01),) * 10,
        b_seconds=tuple(np.full(100, one) for one in b),
        batch=1,
        shortened=False,
        settled=True,
        concurrent=True,
    )


def target(rate: float | None, *, goal: str = "cost", utilisation: float = 1.0) -> Target:
    return Target(
        machine=describe(),
        goal=goal,  # type: ignore[arg-type]
        price=Price(per_hour=0.18),
        rate=rate,
        max_utilisation=utilisation,
    )


@pytest.mark.parametrize(
    ("rate", "utilisation", "said"),
    [
        (None, 1.0, ""),
        (350.0, 1.0, ""),  # 2 machines, not 4
        (90.0, 1.0, "needs 1 machine, as the fastest equivalent does"),
        (90.0, 0.5, ""),  # 1 machine, not 2
        (100_000.0, 1.0, ""),
    ],
)
def test_twice_as_fast_is_cheaper_only_where_it_saves_a_machine(
    rate: float | None, utilisation: float, said: str
) -> None:
    reason = saves_none(target(rate, utilisation=utilisation), timing(2.0), "int8")
    assert said in reason and bool(said) == bool(reason)


def test_a_machine_that_is_saved_only_perhaps_is_not_promised() -> None:
    # 1.25 times by the estimate, some 1.15 at worst: 4 machines or 5 at 480/s, where 5 are needed.
    reason = saves_none(target(480.0), timing(1.25, noise=0.1), "int8")
    assert reason == (
        "at 480 inferences/s int8 is not surely cheaper: 4 or 5 machines, where the fastest "
        "equivalent needs 5"
    )


def test_other_goals_are_not_decided_by_machines() -> None:
    for goal in ("latency", "throughput", "energy"):
        assert saves_none(target(90.0, goal=goal), timing(2.0), "int8") == ""


def test_what_saves_no_machine_is_not_delivered() -> None:
    recipe = Recipe(deploy=Deployment(engine="onnxruntime"))
    trial = Trial(number=1, recipe=recipe, status="alive", stage="time", evidence=Evidence())
    for rate, said in ((90.0, "no cheaper"), (350.0, "")):
        place: Any = SimpleNamespace(task=SimpleNamespace(goal="cost"), target=target(rate))
        reason = not_better(place, timing(2.0), trial, trial)
        assert said in reason and bool(said) == bool(reason)
