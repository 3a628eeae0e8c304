"""Where the time of a call goes, by the engines' own profilers, and what to do about it."""

from strop.profiling.page import write_page
from strop.profiling.placing import keep, output_folder, write_report
from strop.profiling.profiler import profile
from strop.profiling.record import (
    Advice,
    EngineProfile,
    MemorySample,
    Operator,
    Peaks,
    Profile,
    Quantisation,
    Slowed,
)

__all__ = [
    "Advice",
    "EngineProfile",
    "MemorySample",
    "Operator",
    "Peaks",
    "Profile",
    "Quantisation",
    "Slowed",
    "keep",
    "output_folder",
    "profile",
    "write_page",
    "write_report",
]
