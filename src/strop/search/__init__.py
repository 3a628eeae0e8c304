"""The search: space, strategies, race, proof and delivery."""

from strop.search.optimize import Outcome, optimize
from strop.search.request import Request
from strop.search.task import Task, Tolerance, parse_bytes, parse_seconds, parse_tolerance

__all__ = [
    "Outcome",
    "Request",
    "Task",
    "Tolerance",
    "optimize",
    "parse_bytes",
    "parse_seconds",
    "parse_tolerance",
]
