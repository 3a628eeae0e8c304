"""The search: space, strategies, race, proof and delivery."""

from strop.amounts import parse_bytes, parse_seconds
from strop.search.money import parse_price, parse_rate, parse_share, parse_watts
from strop.search.optimize import Outcome, optimize
from strop.search.request import Request
from strop.search.task import Task, Tolerance, parse_tolerance

__all__ = [
    "Outcome",
    "Request",
    "Task",
    "Tolerance",
    "optimize",
    "parse_bytes",
    "parse_price",
    "parse_rate",
    "parse_seconds",
    "parse_share",
    "parse_tolerance",
    "parse_watts",
]
