from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from strop.errors import StropError
from strop.measure import Arena, Conditions, screen
from strop.workers import ChildDied, ChildFailed, ChildOutOfMemory, ChildTimeout

FAKE = Conditions(loader="fakes:load")
QUICK = {"conditions": FAKE, "seconds": 0.002, "warmup_seconds": 0.02}


def under(**changes: object) -> dict[str, object]:
    return QUICK | {"conditions": replace(FAKE, **changes)}


def test_rounds_time_only_the_living(fake, inputs) -> None:
    with Arena(inputs, **QUICK) as arena:
        for name in ("first", "second", "third"):
            assert arena.add(name, fake()) is None
        assert set(arena.round()) == {"first", "second", "third"}
        arena.drop("second")
        arena.drop("second")
        assert arena.names == ("first", "third")
        timed = arena.round()
        assert set(timed) == {"first", "third"} and all(timed[name] > 0 for name in timed)
        assert arena.add("late", fake()) is None
        assert set(arena.round()) == {"first", "third", "late"}
        timings = arena.timings()
        assert {name: len(timing.rounds) for name, timing in timings.items()} == {
            "first": 3,
            "second": 1,
            "third": 2 + 1,
            "late": 1,
        }
        assert timings["first"].ratio == 1.0
        ratios = timings["first"].rounds[:1] / timings["second"].rounds
        assert timings["second"].ratio == pytest.approx(ratios[0])
        with pytest.raises(StropError, match="already holds"):
            arena.add("second", fake())
        with pytest.raises(StropError, match="holds no session"):
            arena.drop("nobody")
    assert arena.names == ()


def test_the_order_within_rounds_is_random_and_repeats_with_the_seed(fake, inputs) -> None:
    def orders(seed: int) -> list[list[str]]:
        with Arena(inputs, seed=seed, **QUICK) as arena:
            for name in "abc":
                arena.add(name, fake(sleep=0.0))
            return [list(arena.round()) for _ in range(4)]

    first = orders(1)
    assert first == orders(1)
    assert len(set(map(tuple, first))) > 1


def test_a_session_that_fails_leaves_and_the_others_go_on(fake, inputs) -> None:
    with Arena(inputs, **QUICK) as arena:
        assert isinstance(arena.add("broken", fake(fail_to_load=True)), ChildFailed)
        arena.add("sound", fake())
        arena.add("dying", fake(die_at=40, sleep=0.001))
        lost = None
        for _ in range(15):
            result = arena.round()
            lost = lost or result.get("dying") if "dying" not in arena.names else None
            assert isinstance(result["sound"], float)
            if lost:
                break
        assert isinstance(lost, ChildDied)
        assert arena.names == ("sound",)
        timings = arena.timings()
        assert timings["dying"].error is lost
        assert isinstance(timings["broken"].error, ChildFailed)
        assert np.isnan(timings["broken"].seconds) and np.isnan(timings["sound"].ratio)


def test_a_session_is_fed_another_batch_and_compared_by_example(fake, inputs) -> None:
    def rows(count: int) -> dict[str, np.ndarray]:
        return {"x": np.zeros((count, 3), np.float32)}

    with Arena(inputs, **QUICK) as arena:  # four examples a call
        arena.add("first", fake(takes=0.05))
        assert arena.add("large", fake(takes=0.05, largest_batch=64), None, rows(64)) is None
        arena.round()
        assert arena.feed("large", "small", rows(1)) is None
        assert set(arena.round()) == {"first", "small"}
        refused = arena.feed("small", "huge", rows(65))
        assert isinstance(refused, ChildFailed) and arena.names == ("first",)
        timings = arena.timings()
        # Every call takes as long: 64 examples a call are sixteen times as many as four.
        for name, times in (("large", 4 / 64), ("small", 4)):
            np.testing.assert_allclose(timings[name].calls, 0.05)
            assert timings[name].seconds == pytest.approx(0.05 * times)
            assert timings[name].ratio == pytest.approx(1 / times)
        assert timings["huge"].error is refused
        with pytest.raises(StropError, match="no living session"):
            arena.feed("huge", "again", rows(1))
        with pytest.raises(StropError, match="already holds"):
            arena.feed("first", "large", rows(1))


@pytest.mark.usefixtures("hangs_end_soon")
def test_screening_gives_a_row_to_every_session(fake, inputs) -> None:
    lines: list[str] = []
    first, slow = fake(takes=0.01), fake(takes=0.05)
    specs = {"first": first, "slow": slow, "hangs": fake(hang_at=1), "last": fake()}
    timings = screen(specs, inputs, rounds=3, emit=lines.append, **QUICK)
    assert list(timings) == list(specs)
    assert [len(timing.rounds) for timing in timings.values()] == [3, 3, 0, 3]
    assert isinstance(timings["hangs"].error, ChildTimeout)
    assert timings["slow"].ratio == pytest.approx(1 / 5)
    assert timings["slow"].seconds == pytest.approx(0.05)
    assert lines == ["timing slow", "timing hangs", "timing last"]


@pytest.mark.parametrize("limits", [{"most_alive": 2}, {"memory": 1}])
def test_what_does_not_fit_at_once_comes_in_batches_beside_the_first(fake, inputs, limits) -> None:
    specs = {name: fake() for name in ("first", "second", "third")}
    timings = screen(specs, inputs, rounds=2, **limits, **QUICK)
    assert [len(timing.rounds) for timing in timings.values()] == [2, 2, 2]
    assert all(timing.ratio > 0 for timing in timings.values())


def test_one_session_alone_is_screened_too(fake, inputs) -> None:
    assert screen({"only": fake()}, inputs, rounds=1, **QUICK)["only"].ratio == 1.0


def test_a_deadline_ends_a_screening_without_blame(fake, inputs) -> None:
    deadline = time.monotonic() + 2.5
    specs = {"first": fake(), "hangs": fake(hang_at=1), "unreached": fake()}
    timings = screen(specs, inputs, rounds=100_000, **under(deadline=deadline))
    assert all(timing.error is None for timing in timings.values())
    assert len(timings["unreached"].rounds) == 0


def test_a_session_that_outgrows_its_memory_is_lost(fake, inputs) -> None:
    greedy = fake(allocate=400_000_000, sleep=60)  # it is watched now and then only
    with Arena(inputs, **under(memory_limit=250_000_000)) as arena:
        assert isinstance(arena.add("greedy", greedy), ChildOutOfMemory)
