"""The fastest of a race, timed again side by side."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from strop.errors import StropError
from strop.records import Interval, Speedup, Trial
from strop.search import heat
from strop.search.heat import contenders, heats, kept_for_heat
from strop.search.objective import speed

from .test_deliver import trial as timed

TOLERANCE = 0.05


class Arena:
    """Counts rounds; what it would say is the test's own truth."""

    full = False

    def __init__(self, broken: frozenset[int] = frozenset()) -> None:
        self.entered: list[list[str]] = [[]]
        self.rounds = 0
        self.living: set[str] = set()
        self._broken = broken

    def add(self, name: str, spec: Any, payload: Any = None, inputs: Any = None) -> Any:
        number = int(name[1:].split(",")[0])
        if number in self._broken:
            return StropError("it died")
        self.entered[-1].append(name)
        self.living.add(name)
        return None

    def round(self) -> None:
        self.rounds += 1

    def drop(self, name: str) -> None:
        self.living.remove(name)
        if not self.living:
            self.entered.append([])


@pytest.fixture
def place() -> Any:
    return SimpleNamespace(
        task=SimpleNamespace(goal="latency"),
        tolerance=TOLERANCE,
        target=SimpleNamespace(batch=1),
        clock=SimpleNamespace(
            budget=600.0, race_left=60.0, phase=lambda _: contextlib.nullcontext()
        ),
        emit=lambda event: None,
        payload_for=lambda spec: None,
    )


def race(place: Any, said: dict[int, float], true: dict[int, float], arena: Arena) -> list[Trial]:
    """The trials after their heats, where the race said one thing and the truth is another."""
    trials = [timed(number, faster) for number, faster in said.items()]
    assert [it.number for it in trials] == list(range(len(trials)))

    def retimed(trial: Trial, built: Any, name: str) -> Trial:
        value = true[trial.number]
        ratio = Interval(estimate=value, low=value, high=value)
        beside = Speedup(against="anchor", batch=1, ratio=ratio, launches=1)
        evidence = trial.evidence.model_copy(update={"speedups": (beside,)})
        return trial.model_copy(update={"evidence": evidence})

    for found in heats(place, arena, trials, SimpleNamespace(spec=None), retimed, 30.0):  # type: ignore[arg-type]
        trials[found.number] = found
    return trials


@pytest.fixture(autouse=True)
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heat, "build", lambda workspace, recipe: SimpleNamespace(spec=None))


def test_the_luckiest_of_a_noisy_race_does_not_win(place: Any) -> None:
    said = {0: 1.0, 1: 4.0, 2: 3.5, 3: 3.4, 4: 1.2}
    true = {0: 1.0, 1: 2.1, 2: 3.2, 3: 3.3, 4: 1.2}
    arena = Arena()
    trials = race(place, said, true, arena)
    assert [speed(trial) for trial in trials] == [1.0, 2.1, 3.2, 3.3, 1.2]
    # Those that are far behind are not timed again, and one heat was enough.
    (names, rest) = arena.entered
    assert rest == [] and [name[:2] for name in names] == ["#1", "#2", "#3"]
    assert arena.rounds == heat._ROUNDS and not arena.living


def test_another_heat_follows_where_one_leaves_another_ahead(place: Any) -> None:
    said = {0: 1.0, **{number: 6.0 - 0.1 * number for number in range(1, 9)}}
    true = {number: (2.0 if number < 7 else said[number]) for number in said}
    arena = Arena()
    trials = race(place, said, true, arena)
    best = max(trials, key=lambda trial: speed(trial) or 0.0)
    assert best.number == 7
    first, second, _ = arena.entered
    assert [int(name[1]) for name in first] == [1, 2, 3, 4, 5, 6]
    assert {int(name[1]) for name in second} == {7, 8}
    assert len({*first, *second}) == len(first) + len(second)


def test_what_no_longer_runs_keeps_what_the_race_said(place: Any) -> None:
    said, true = {0: 1.0, 1: 4.0, 2: 3.5}, {0: 1.0, 1: 9.0, 2: 3.6}
    trials = race(place, said, true, Arena(broken=frozenset({1})))
    assert [speed(trial) for trial in trials] == [1.0, 4.0, 3.6]


def test_no_heat_without_time_or_rivals(place: Any) -> None:
    alone = [timed(0, 1.0), timed(1, 4.0)]
    assert contenders(alone, "latency", TOLERANCE, set(), 30.0) == []
    many = [timed(number, 2.0 + 0.01 * number) for number in range(9)]
    slow = [trial.model_copy(update={"seconds": {"time": 10.0}}) for trial in many]
    assert len(contenders(slow, "latency", TOLERANCE, set(), 1.0)) == 2
    assert len(contenders(slow, "latency", TOLERANCE, set(), 35.0)) == 3
    assert contenders(many, "latency", TOLERANCE, {8}, 30.0) == []
    outside = [timed(number, 4.0, drop=0.2) for number in range(3)]
    assert contenders(outside, "latency", TOLERANCE, set(), 30.0) == []


@pytest.mark.parametrize(("goal", "seconds"), [("latency", 30.0), ("size", 0.0), ("memory", 0.0)])
def test_only_what_is_timed_is_kept_time(place: Any, goal: str, seconds: float) -> None:
    place.task.goal = goal
    assert kept_for_heat(place) == seconds
