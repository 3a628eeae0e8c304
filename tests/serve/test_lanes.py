from __future__ import annotations

import math
from collections.abc import Hashable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from strop.serve.lanes import Lanes
from strop.serve.request import InferRequest
from strop.serve.ticket import ANSWERED, QUEUED, RUNNING, Ticket, nobody


def ticket(
    due: float = math.inf,
    rows: int = 1,
    priority: int = 8,
    key: Hashable = None,
    deadline: float | None = None,
) -> Ticket:
    request = InferRequest("m", {"x": np.zeros(1)}, deadline=deadline)
    made = Ticket(None, request, nobody)
    made.due, made.rows, made.priority, made.key, made.size = due, rows, priority, key, 8
    return made


def test_earliest_due_goes_first_and_equals_keep_their_order() -> None:
    lanes = Lanes()
    tickets = [ticket(due) for due in (3.0, 1.0, 3.0, 2.0)]
    for it in tickets:
        lanes.enter(it)
    taken, expired = lanes.take(lanes.first(), 10, now=0.0)
    assert taken == [tickets[1], tickets[3], tickets[0], tickets[2]]
    assert not expired
    assert (lanes.requests, lanes.rows, lanes.bytes) == (0, 0, 0)


def test_priority_goes_before_due() -> None:
    lanes = Lanes()
    urgent, other = ticket(9.0, priority=1), ticket(1.0, priority=2)
    lanes.enter(other)
    lanes.enter(urgent)
    assert lanes.first().head() is urgent
    assert (lanes.rows_ahead(1), lanes.rows_ahead(2), lanes.rows_ahead(0)) == (1, 2, 0)


def test_a_batch_takes_whole_requests_and_at_least_one() -> None:
    lanes = Lanes()
    tickets = [ticket(float(n), rows) for n, rows in enumerate((5, 3, 4))]
    for it in tickets:
        lanes.enter(it)
    assert lanes.take(lanes.first(), 2, 0.0)[0] == tickets[:1]
    assert tickets[1].state == QUEUED
    assert lanes.take(lanes.first(), 6, 0.0)[0] == tickets[1:2]
    assert lanes.rows == 4


def test_expired_ones_are_handed_out_apart() -> None:
    lanes = Lanes()
    late, good = ticket(1.0, deadline=1.0), ticket(5.0, deadline=5.0)
    lanes.enter(late)
    lanes.enter(good)
    assert lanes.take(lanes.first(), 1, now=2.0) == ([good], [late])
    lanes.enter(again := ticket(1.0, deadline=1.0))
    assert lanes.expired(now=2.0) == [again]
    assert lanes.requests == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["enter", "enter", "cancel", "take", "expire"]),
            st.integers(1, 5),
            st.integers(1, 3),
            st.integers(0, 2),
            st.floats(0, 10),
        ),
        max_size=60,
    )
)
def test_counts_are_those_of_a_plain_list(steps: list[tuple[str, int, int, int, float]]) -> None:
    lanes = Lanes()
    waiting: list[Ticket] = []
    for what, rows, priority, key, due in steps:
        if what == "enter":
            it = ticket(due, rows, priority, key, deadline=due)
            waiting.append(it)
            lanes.enter(it)
        elif what == "cancel" and waiting:
            it = waiting.pop(rows % len(waiting))
            lanes.leave(it)
            it.state = ANSWERED
        elif what == "take" and waiting:
            lane = lanes.first()
            assert lane.priority == min(it.priority for it in waiting)
            taken, expired = lanes.take(lane, rows, now=due)
            assert taken == sorted(taken, key=lambda it: it.due)
            assert len(taken) <= 1 or sum(it.rows for it in taken) <= rows
            assert all(it.state == RUNNING for it in (*taken, *expired))
            waiting = [it for it in waiting if it not in taken and it not in expired]
        elif what == "expire":
            gone = lanes.expired(due)
            assert set(gone) == {it for it in waiting if it.request.deadline < due}
            waiting = [it for it in waiting if it not in gone]
        assert lanes.requests == len(waiting)
        assert lanes.rows == sum(it.rows for it in waiting)
        assert lanes.bytes == sum(it.size for it in waiting)
    assert set(lanes.clear()) == set(waiting)
