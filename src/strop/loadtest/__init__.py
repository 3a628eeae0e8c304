"""Load tests of an inference server: open loop, LoadGen scenarios, a verdict on the SLO."""

from strop.loadtest.generator import Moment
from strop.loadtest.record import (
    Bin,
    LoadTest,
    Percentiles,
    RateTrial,
    Scenario,
    SloVerdict,
)
from strop.loadtest.running import Plan, run
from strop.loadtest.slo import Slo

__all__ = [
    "Bin",
    "LoadTest",
    "Moment",
    "Percentiles",
    "Plan",
    "RateTrial",
    "Scenario",
    "Slo",
    "SloVerdict",
    "run",
]
