"""Watts of a busy CPU by counters that are made to follow its CPU time."""

from __future__ import annotations

import time

import pytest

from strop.measure import Meter, wattage


class Counter:
    """Counts so many microjoules for each CPU second of this process."""

    name, wraps_at, joules_a_step = "made up", 1 << 62, 1e-6

    def __init__(self, watts: float) -> None:
        self.watts = watts

    def read(self) -> int:
        return int(time.process_time() * self.watts * 1e6)


class Broken(Counter):
    def read(self) -> int:
        raise OSError("gone")


def test_watts_are_joules_over_cpu_seconds() -> None:
    found = wattage(Meter((Counter(5.0), Counter(2.0))), seconds=0.2)
    assert found is not None
    assert found.per_core == pytest.approx(7.0, rel=0.05)
    assert found.counters == "made up + made up"
    assert found.cpu_seconds > 0 and found.idle is not None


def test_counters_that_fail_or_stand_still_tell_nothing() -> None:
    assert wattage(Meter((Broken(5.0),)), seconds=0.05) is None
    assert wattage(Meter((Counter(0.0),)), seconds=0.05) is None
