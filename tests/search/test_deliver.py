"""What is taken of the proven, and what is said of those that are not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from strop.measure import TimingFailed, describe
from strop.records import (
    Claim,
    Deployment,
    Evidence,
    Interval,
    Memory,
    Quality,
    Recipe,
    Speedup,
    Target,
    Trial,
)
from strop.search import deliver
from strop.search.near_miss import near_miss, none_better
from strop.workers import ChildError


def trial(number: int, faster: float, drop: float = 0.0) -> Trial:
    ratio = Interval(estimate=faster, low=0.9 * faster, high=1.1 * faster)
    quality = Quality(
        metric="accuracy",
        kind="binary",
        role="search",
        n=100,
        groups=100,
        reference=0.9,
        candidate=0.9 - drop,
        drop=Interval(estimate=drop, low=drop - 0.01, high=drop + 0.01),
        lost=0,
        won=0,
        changed=0,
        max_relative_error=0.0,
    )
    return Trial(
        number=number,
        recipe=Recipe(deploy=Deployment(engine="onnxruntime", threads=number)),
        status="alive",
        stage="time",
        evidence=Evidence(
            search_quality=quality,
            speedups=(Speedup(against="anchor", batch=1, ratio=ratio, launches=1),),
            memory=Memory(file=100, weights=100, peak=100),
        ),
    )


def proof(found: Trial) -> Any:
    claim = Claim(kind="proven", metric="accuracy", method="bets", n=100, groups=100)
    return SimpleNamespace(trial=found, claim=claim, reason="")


@pytest.fixture
def place() -> Any:
    said: list[Any] = []
    return SimpleNamespace(
        task=SimpleNamespace(goal="latency", batch=1),
        target=Target(machine=describe()),
        clock=SimpleNamespace(left=1e3),
        tolerance=0.01,
        emit=said.append,
        said=said,
    )


@pytest.mark.parametrize(("side", "stays"), [("a", 1), ("b", 2)])
def test_what_fails_in_a_duel_loses_it_and_the_search_goes_on(
    place: Any, monkeypatch: pytest.MonkeyPatch, side: Any, stays: int
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise TimingFailed(side, ChildError("it died"))

    monkeypatch.setattr(deliver, "retime", fails)
    slower, faster = proof(trial(1, 2.0)), proof(trial(2, 2.1))
    chosen = deliver._choose(place, [slower, faster], {1: None, 2: None})  # type: ignore[dict-item]
    assert chosen is not None and chosen.trial.number == stays
    (warned,) = place.said
    assert str(trial(3 - stays, 1.0).recipe) in warned.message and "it died" in warned.message


def test_a_near_miss_that_was_never_timed_again_is_not_said_to_have_been(place: Any) -> None:
    surest, fastest = trial(1, 2.0, drop=-0.01), trial(2, 2.1)
    trials = [trial(0, 1.0), surest, fastest]
    proofs = [proof(surest), proof(fastest)]
    missed = near_miss(place, trials, trials[0], proofs, proofs[1])
    assert missed is not None and missed.recipe == surest.recipe
    assert "#2 was taken" in missed.reason
    missed = near_miss(place, trials, trials[0], proofs, proofs[0])
    assert missed is not None and "taken" not in missed.reason


def test_that_nothing_was_faster_is_said_only_of_what_was_tried() -> None:
    exact = trial(0, 1.0).model_copy(update={"equivalent": True})
    failed = trial(1, 1.0).model_copy(update={"status": "failed", "reason": "no kernel"})
    slower = trial(2, 0.5)
    said = none_better
    assert "ended before any" in said([exact, failed], "latency", finished=False)
    assert said([exact, failed], "latency", finished=True).endswith(f"{failed.recipe}: no kernel")
    told = said([exact, failed, slower], "latency", finished=False)
    assert "was faster on the search examples; there was time to try 1" in told
    assert said([exact, slower], "size", finished=True).endswith(
        "was smaller on the search examples"
    )
