from __future__ import annotations

import math

import numpy as np

from strop.measure import Conditions, NoiseFloor, PairTiming, noise_floor
from strop.records import Interval

NONE = PairTiming(np.array([]), (), (), (), 1, shortened=True, settled=True)


def test_a_session_against_itself_gives_an_interval(fake, inputs) -> None:
    floor = noise_floor(
        fake(),
        inputs,
        launches=3,
        quads=1,
        seconds_per_block=0.005,
        conditions=Conditions(loader="fakes:load"),
    )
    assert floor.timing.launches == 3
    assert 0 < floor.ratio.low < floor.ratio.high < math.inf
    assert floor.covers == (floor.ratio.low <= 1 <= floor.ratio.high)
    assert floor.detectable > 1


def test_what_can_be_detected_is_the_half_width() -> None:
    floor = NoiseFloor(Interval(estimate=1.0, low=0.98, high=1 / 0.98), NONE)
    assert floor.covers and math.isclose(floor.detectable, 1 / 0.98)
    assert not NoiseFloor(Interval(estimate=1.1, low=1.05, high=1.2), NONE).covers
    unbounded = NoiseFloor(Interval(estimate=1.0, low=0.0, high=math.inf), NONE)
    assert unbounded.detectable == math.inf
