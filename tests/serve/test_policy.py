from __future__ import annotations

import math
from pathlib import Path

import pytest

from strop.serve.policy import (
    DeadlineAware,
    Decision,
    FixedSizeAndDelay,
    QueueView,
    policy_for,
)
from strop.serve.settings import ModelSettings

from .test_curve import linear


@pytest.mark.parametrize("rows", [1, 2, 7, 31, 32, 33, 500])
@pytest.mark.parametrize("deadline", [-1.0, 0.0, 0.003, 0.01, math.inf])
def test_deadline_aware_never_waits(rows: int, deadline: float) -> None:
    view = QueueView(rows, 0.0, deadline, deadline, 1)
    assert 1 <= DeadlineAware(0.03).choose(view, linear(), now=0.0).rows <= min(rows, 32)


def test_the_earliest_deadline_cuts_the_batch_while_the_others_can_wait() -> None:
    curve = linear()
    view = QueueView(20, 0.0, 0.009, 0.1, 1)
    rows = DeadlineAware().choose(view, curve, now=0.0).rows
    assert curve.p50(rows) <= 0.009 < curve.p50(rows + 1)
    hurried = view._replace(last=0.012)  # the rest could not make it afterwards
    assert DeadlineAware().choose(hurried, curve, now=0.0).rows == 20


def test_a_lost_deadline_does_not_cost_throughput() -> None:
    view = QueueView(32, 0.0, 0.001, 0.001, 1)
    assert DeadlineAware(0.02).choose(view, linear(), now=0.0).rows == 32


def test_fixed_waits_for_size_or_delay() -> None:
    policy = FixedSizeAndDelay(8, delay=0.01)
    curve = linear()
    view = QueueView(3, 1.0, math.inf, math.inf, 1)
    assert policy.choose(view, curve, now=1.002) == Decision(0, 1.01)
    assert policy.choose(view, curve, now=1.01).rows == 3
    assert policy.choose(view._replace(rows=9), curve, now=1.0).rows == 8


def test_settings_name_the_policy() -> None:
    fixed = policy_for(ModelSettings(Path("m"), policy="fixed", max_batch=4, delay=0.5))
    assert isinstance(fixed, FixedSizeAndDelay)
    assert (fixed.size, fixed.delay) == (4, 0.5)
    aware = policy_for(ModelSettings(Path("m"), slo=0.02))
    assert isinstance(aware, DeadlineAware)
    assert aware.slo == 0.02
