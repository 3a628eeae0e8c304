from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from strop.measure import Conditions, TimingFailed, pair, speedup
from strop.workers import ChildDied, ChildTimeout

FAKE = Conditions(loader="fakes:load")
QUICK = {"conditions": FAKE, "seconds_per_block": 0.005, "warmup_seconds": 0.05}


def under(**changes: object) -> dict[str, object]:
    return QUICK | {"conditions": replace(FAKE, **changes)}


def test_each_launch_gives_quads_calls_and_their_log_ratio(fake, inputs) -> None:
    lines: list[str] = []
    timing = pair(fake(), fake(), inputs, launches=2, quads=2, emit=lines.append, **QUICK)
    assert timing.launches == 2 and not timing.shortened and timing.batch == 4
    assert [quads.shape for quads in timing.quads] == [(2, 4)] * 2
    for launch, quads in enumerate(timing.quads):
        a1, b1, b2, a2 = np.log(quads).T
        np.testing.assert_allclose(timing.log_ratios[launch], np.median((a1 + a2 - b1 - b2) / 2))
        assert len(timing.a_seconds[launch]) >= 4 * 3
        assert len(timing.b_seconds[launch]) >= 4 * 3
    assert lines == [f"timing launch {number} of 2" for number in (1, 2)]


def test_b_is_the_candidate_in_mirrored_quads_too(fake, inputs) -> None:
    timing = pair(fake(takes=0.05), fake(takes=0.001), inputs, launches=1, quads=2, **QUICK)
    (quads,) = timing.quads
    np.testing.assert_allclose(quads, [[0.05, 0.001, 0.001, 0.05]] * 2)
    np.testing.assert_allclose(timing.a_seconds[0], 0.05)
    np.testing.assert_allclose(timing.b_seconds[0], 0.001)
    assert timing.log_ratios[0] == pytest.approx(np.log(50))


def test_sides_with_batches_of_their_own_are_compared_by_example(fake, inputs) -> None:
    many = {"x": np.zeros((64, 3), np.float32)}
    same = fake(takes=0.05)
    timing = pair(same, same, inputs, b_inputs=many, launches=1, quads=1, **QUICK)
    assert timing.batch == 4 and timing.batches == (4, 64)
    np.testing.assert_allclose(timing.quads[0], [[0.05, 0.05 / 16, 0.05 / 16, 0.05]])
    # Calls keep the seconds that they took.
    np.testing.assert_allclose(timing.b_seconds[0], 0.05)
    assert timing.rates == pytest.approx((4 / 0.05, 64 / 0.05))
    assert speedup(timing, "original").ratio.estimate == pytest.approx(16)
    assert pair(same, same, inputs, launches=0, **QUICK).batches == (4, 4)


def test_the_one_not_timed_stands_still(fake, inputs, tmp_path) -> None:
    for seconds in (0.1, 1.0, 10.0):
        files = [tmp_path / f"{side}-{seconds}" for side in "ab"]
        a, b = (fake(spans=str(file)) for file in files)
        pair(a, b, inputs, launches=1, quads=2, **{**QUICK, "seconds_per_block": seconds})
        ticks = [np.fromfile(file, "<i8") for file in files]
        if min(map(len, ticks)) > 20:
            break  # a busy machine may let a process run for a small part of its slots
    side = np.repeat([0, 1], [len(each) for each in ticks])
    order = np.argsort(np.concatenate(ticks), kind="stable")
    changes = np.count_nonzero(np.diff(side[order]))
    # Load, load, warm, warm, A, BB, A, B, AA, B: each in one stretch. Side by side, the two
    # would change places at nearly every one of dozens or hundreds of ticks.
    assert min(map(len, ticks)) > 20
    assert changes <= 12


def test_either_side_may_fail_and_is_named(fake, inputs) -> None:
    with pytest.raises(TimingFailed, match="SIGABRT") as failed:
        pair(fake(), fake(die_at=10), inputs, launches=1, **QUICK)
    assert failed.value.side == "b" and isinstance(failed.value.error, ChildDied)
    with pytest.raises(TimingFailed, match="this artefact is broken") as failed:
        pair(fake(fail_to_load=True), fake(), inputs, launches=1, **QUICK)
    assert failed.value.side == "a"


@pytest.mark.usefixtures("hangs_end_soon")
def test_a_hang_ends_in_a_timeout(fake, inputs) -> None:
    with pytest.raises(TimingFailed) as failed:
        pair(fake(), fake(hang_at=2), inputs, launches=1, **QUICK)
    assert failed.value.side == "b" and isinstance(failed.value.error, ChildTimeout)


def test_the_deadline_makes_fewer_launches(fake, inputs) -> None:
    deadline = time.monotonic() + 2.5
    timing = pair(fake(), fake(), inputs, launches=1000, quads=1, **under(deadline=deadline))
    assert timing.shortened and timing.launches < 1000
    assert len(timing.a_seconds) == len(timing.quads) == timing.launches


def test_a_session_that_the_deadline_cuts_off_is_not_to_blame(fake, inputs) -> None:
    deadline = time.monotonic() + 2.0
    timing = pair(fake(), fake(hang_at=1), inputs, **under(deadline=deadline))
    assert timing.shortened and timing.launches == 0
    past = pair(fake(), fake(), inputs, **under(deadline=time.monotonic() - 1.0))
    assert past.shortened and past.launches == 0


def test_payloads_go_to_their_sides(fake, inputs, tmp_path: Path) -> None:
    a, b = (fake(payload=str(tmp_path / name)) for name in "ab")
    pair(a, b, inputs, launches=1, quads=1, payloads=(b"first", b"second"), **QUICK)
    assert [(tmp_path / name).read_bytes() for name in "ab"] == [b"first", b"second"]


def test_a_pair_of_equals_gives_an_interval(fake, inputs) -> None:
    spec = fake()
    ratio = speedup(pair(spec, spec, inputs, launches=3, quads=1, **QUICK), "itself").ratio
    assert 0 < ratio.low < ratio.estimate < ratio.high < np.inf
