"""Load on a bundle in this process, generated and judged by MLPerf LoadGen."""

from strop.benching.benching import SCENARIOS, bench
from strop.benching.record import Attempt, Bench, Checks, Histogram, ScenarioResult

__all__ = [
    "SCENARIOS",
    "Attempt",
    "Bench",
    "Checks",
    "Histogram",
    "ScenarioResult",
    "bench",
]
