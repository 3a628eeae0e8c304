from __future__ import annotations

import pytest

from strop.measure import throughput
from strop.workers import ChildDied, ChildFailed

QUICK = {"loader": "fakes:load", "seconds": 0.1, "warmup_seconds": 0.02}


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
