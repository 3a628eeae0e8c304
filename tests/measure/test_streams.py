from __future__ import annotations

import numpy as np
import pytest

from strop.measure import Arena, Conditions, pair, speedup, summarise, throughput
from strop.workers import ChildDied, ChildFailed

FAKE = Conditions(loader="fakes:load")
QUICK = {"conditions": FAKE, "seconds": 0.1, "warmup_seconds": 0.02}


def test_examples_are_counted_over_all_streams(fake, inputs) -> None:
    found = throughput(fake(sleep=0.02), inputs, streams=3, rounds=3, **QUICK)
    assert (found.streams, found.batch, len(found.rounds)) == (3, 4, 3)
    assert found.calls >= 3 * 3
    assert found.examples_per_second == sorted(found.rounds)[1]
    # A call sleeps for 20 ms: no more than 50 a second a stream, of 4 examples each.
    assert 0 < max(found.rounds) <= 3 * 50 * 4


def test_streams_default_to_the_placement(fake, inputs) -> None:
    assert throughput(fake(), inputs, rounds=1, **QUICK).streams == 1


def test_a_session_that_is_not_thread_safe_is_refused(fake, inputs) -> None:
    spec = fake(single_threaded=True)
    assert throughput(spec, inputs, streams=1, rounds=1, **QUICK).calls > 0
    with pytest.raises(ChildFailed, match="not thread-safe"):
        throughput(spec, inputs, streams=2, rounds=1, **QUICK)


def test_a_failure_in_one_stream_ends_the_round(fake, inputs) -> None:
    with pytest.raises(ChildFailed, match="the call failed"):
        throughput(fake(fail_at=60), inputs, streams=3, rounds=50, **QUICK)
    with pytest.raises(ChildDied, match="SIGABRT"):
        throughput(fake(die_at=60), inputs, streams=3, rounds=50, **QUICK)


ATONCE = Conditions(loader="fakes:load", concurrent=True)


def test_a_pair_compares_rates_where_calls_run_at_once(fake, inputs) -> None:
    """One stream against four: each call takes as long, and four end in its time."""
    timing = pair(
        fake(takes=0.03),
        fake(streams=4, takes=0.03),
        inputs,
        launches=2,
        quads=1,
        seconds_per_block=0.08,
        warmup_seconds=0.02,
        conditions=ATONCE,
    )
    assert timing.concurrent
    assert speedup(timing, "one stream").ratio.estimate == pytest.approx(4)
    slow, fast = timing.rates
    assert slow == pytest.approx(4 / 0.03)  # four examples a call of 30 ms
    assert fast == pytest.approx(4 * 4 / 0.03)
    for seconds in timing.b_seconds:  # the latency of a call is its own, not its share of the rate
        np.testing.assert_allclose(seconds, 0.03)
    latency = summarise(timing.b_seconds, batch=4, threads=1, streams=4, rate=fast)
    assert (latency.streams, latency.throughput) == (4, fast)
    assert latency.p50.estimate == pytest.approx(0.03)


def test_an_arena_orders_by_rate_where_calls_run_at_once(fake, inputs) -> None:
    with Arena(inputs, seconds=0.02, warmup_seconds=0.02, conditions=ATONCE) as arena:
        arena.add("one", fake(takes=0.02))
        arena.add("three", fake(streams=3, takes=0.02))
        for _ in range(3):
            arena.round()
        assert arena.timings()["three"].ratio == pytest.approx(3)


def test_one_call_at_a_time_knows_nothing_of_streams(fake, inputs) -> None:
    quick = {"seconds_per_block": 0.01, "warmup_seconds": 0.02, "conditions": FAKE}
    timing = pair(fake(takes=0.005), fake(streams=4, takes=0.005), inputs, launches=2, **quick)
    assert not timing.concurrent
    assert speedup(timing, "one stream").ratio.estimate == pytest.approx(1)
