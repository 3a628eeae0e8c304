"""Metrics: how good outputs are, against targets or against the original's outputs."""

from strop.metrics._base import Metric
from strop.metrics.decisions import decisions_changed
from strop.metrics.resolving import caveat, reopen, resolve
from strop.metrics.setlevel import resampled_drop
from strop.metrics.user import UserMetric

__all__ = [
    "Metric",
    "UserMetric",
    "caveat",
    "decisions_changed",
    "reopen",
    "resampled_drop",
    "resolve",
]
