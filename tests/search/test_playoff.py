"""The last round among the proven: luck of the race is corrected, ties go to the smaller file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from strop.records import Interval
from strop.search.playoff import Contender, playoff


def _duel(
    true: dict[str, float], width: float = 0.01, seen: list[tuple[str, str]] | None = None
) -> Callable[[str, str], Interval]:
    def duel(champion: str, challenger: str) -> Interval:
        if seen is not None:
            seen.append((champion, challenger))
        ratio = true[challenger] / true[champion]
        low, high = ratio * (1 - width), ratio * (1 + width)
        return Interval(estimate=ratio, low=low, high=high, confidence=0.95)

    return duel


def test_the_luckiest_of_the_race_loses_to_the_fastest() -> None:
    contenders = [Contender("lucky", 10.0, 100), Contender("fast", 9.0, 100)]
    assert playoff(contenders, _duel({"lucky": 8.0, "fast": 9.0})).of == "fast"


@pytest.mark.parametrize(
    ("speed", "size", "stays"),
    [
        (1.0, 80, "challenger"),
        (0.985, 80, "challenger"),
        (0.96, 80, "champion"),  # surely slower
        (1.0, 95, "champion"),  # hardly smaller
        (1.0, None, "champion"),
    ],
)
def test_a_tie_goes_to_the_clearly_smaller_file(speed: float, size: int | None, stays: str) -> None:
    contenders = [Contender("champion", 10.0, 100), Contender("challenger", 9.9, size)]
    duel = _duel({"champion": 1.0, "challenger": speed}, width=0.02)
    assert playoff(contenders, duel).of == stays


def test_a_wide_interval_is_no_tie_when_the_estimate_is_slower() -> None:
    contenders = [Contender("champion", 10.0, 100), Contender("challenger", 9.9, 10)]
    duel = _duel({"champion": 1.0, "challenger": 0.9}, width=0.5)
    assert playoff(contenders, duel).of == "champion"


def test_only_what_the_race_saw_near_is_run_and_few_of_them() -> None:
    speeds = {"a": 10.0, "b": 9.9, "c": 9.8, "d": 9.7, "e": 9.6, "far": 5.0}
    seen: list[tuple[str, str]] = []
    contenders = [Contender(name, speed, 100) for name, speed in speeds.items()]
    playoff(contenders, _duel(speeds, seen=seen))
    assert seen == [("a", "b"), ("a", "c"), ("a", "d")]
    seen.clear()
    playoff([contenders[0], contenders[-1]], _duel(speeds, seen=seen))
    assert seen == []


def test_without_time_the_race_decides() -> None:
    contenders = [Contender("a", 10.0, 100), Contender("b", 9.9, 10)]
    assert playoff(contenders, lambda a, b: None).of == "a"


def test_it_wins_back_what_choosing_the_best_of_noisy_figures_loses() -> None:
    rng = np.random.default_rng(0)
    plain, after = [], []
    for _ in range(300):
        true = {str(i): float(rng.uniform(8, 10)) for i in range(6)}
        raced = {name: speed * rng.lognormal(0, 0.1) for name, speed in true.items()}
        contenders = [Contender(name, speed, 100) for name, speed in raced.items()]
        plain.append(true[max(raced, key=raced.__getitem__)] / max(true.values()))
        after.append(true[playoff(contenders, _duel(true)).of] / max(true.values()))
    assert np.mean(after) > np.mean(plain) + 0.02
