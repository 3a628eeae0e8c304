from __future__ import annotations

import asyncio
import logging
import sys
import time
import weakref

import numpy as np
import pytest

from strop.serve.batcher import Batcher
from strop.serve.errors import DeadlineExceeded, Overloaded, ServeError, Unavailable
from strop.serve.request import InferRequest, InferResponse

from .fakes import FAILS, HANGS, WIDTH, Asked, Doubling, later, round_over, served, settle
from .waiting import END, until


def run(scenario):  # type: ignore[no-untyped-def]
    """Run an async scenario on a loop of its own, within a time limit."""
    return asyncio.run(asyncio.wait_for(scenario, 2 * END))


def batcher_of(session: Doubling, **settings) -> Batcher:  # type: ignore[no-untyped-def]
    return Batcher(served(session, **settings), asyncio.get_running_loop())


def test_requests_of_one_round_share_a_batch_and_get_their_own_rows() -> None:
    async def scenario() -> None:
        session = Doubling()
        batcher = batcher_of(session, max_batch=8)
        ask = Asked(batcher)
        for value in range(8):
            ask(float(value))
        await ask.all()
        assert ask.values() == [2.0 * value for value in range(8)]
        assert session.batches == [8]
        assert [answer.id for answer in ask.answers] == [str(n) for n in range(8)]  # type: ignore[union-attr]
        timings = ask.answers[3].timings  # type: ignore[union-attr]
        assert timings.arrived <= timings.started <= timings.ended
        assert timings.batch == 8
        await settle(batcher)

    run(scenario())


def test_rows_of_several_requests_are_capped_by_the_largest_batch() -> None:
    async def scenario() -> None:
        session = Doubling()
        batcher = batcher_of(session, max_batch=8)
        ask = Asked(batcher)
        for rows in (3, 4, 5, 8, 1, 2):
            ask(np.full((rows, WIDTH), float(rows), np.float32))
        await ask.all()
        assert [answer.outputs["y"].shape for answer in ask.answers] == [  # type: ignore[union-attr]
            (rows, WIDTH) for rows in (3, 4, 5, 8, 1, 2)
        ]
        assert ask.values() == [6.0, 8.0, 10.0, 16.0, 2.0, 4.0]
        assert max(session.batches) <= 8
        assert sum(session.batches) == 23
        await settle(batcher)

    run(scenario())


@pytest.mark.parametrize("rows", [0, 9])
def test_too_many_or_no_rows_are_refused(rows: int) -> None:
    async def scenario() -> None:
        batcher = batcher_of(Doubling(), max_batch=8)
        ask = Asked(batcher)
        ask(np.zeros((rows, WIDTH), np.float32))
        (answer,) = ask.answers
        assert isinstance(answer, ServeError)
        assert (answer.status, answer.grpc) == (400, "INVALID_ARGUMENT")
        assert "1 to 8" in str(answer)
        await settle(batcher)

    run(scenario())


def test_max_batch_1_works() -> None:
    async def scenario() -> None:
        session = Doubling()
        batcher = batcher_of(session, max_batch=1)
        ask = Asked(batcher)
        for value in range(5):
            ask(float(value))
        await ask.all()
        assert ask.values() == [0.0, 2.0, 4.0, 6.0, 8.0]
        assert session.batches == [1] * 5
        await settle(batcher)

    run(scenario())


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"x": np.zeros((1, 3), np.float32)}, "float32[1, 3]"),
        ({"x": np.zeros((1, WIDTH), np.float64)}, "float64"),
        ({"z": np.zeros((1, WIDTH), np.float32)}, "'x' is missing"),
        ({}, "'x' is missing"),
        ({"x": np.zeros(WIDTH, np.float32)}, "float32[4]"),
        ({"x": np.zeros((), np.float32)}, "float32[]"),
    ],
)
def test_misfits_are_refused_by_name(inputs: dict[str, np.ndarray], said: str) -> None:
    async def scenario() -> None:
        batcher = batcher_of(Doubling())
        answers: list[object] = []
        batcher.submit(InferRequest("fake", inputs), answers.append)
        assert isinstance(answers[0], ServeError)
        assert answers[0].status == 400
        assert said in str(answers[0])
        assert batcher.model.statistics.refused == {"invalid": 1}
        await settle(batcher)

    run(scenario())


def test_a_poisoned_request_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        session = Doubling()
        batcher = batcher_of(session)
        ask = Asked(batcher)
        for value in (1.0, FAILS, 3.0, 4.0):
            ask(value)
        await ask.all()
        assert ask.values() == [2.0, "model", 6.0, 8.0]
        assert "secret" not in str(ask.answers[1])
        assert session.batches == [4, 1, 1, 1, 1]
        ask(5.0)
        await ask.all()
        assert ask.values()[-1] == 10.0
        statistics = batcher.model.statistics
        assert (statistics.success.count, statistics.fail.count) == (4, 1)
        await settle(batcher)

    with caplog.at_level(logging.CRITICAL, "strop.serve"):
        run(scenario())


def test_what_is_run_again_alone_is_counted_with_its_own_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        batcher = batcher_of(Doubling(seconds=0.005))
        ask = Asked(batcher)
        for value in (1.0, FAILS, 3.0, 4.0):
            ask(value)
        await ask.all()
        answer = ask.answers[0]
        assert isinstance(answer, InferResponse)
        compute = batcher.model.statistics.compute
        assert compute.count == 3
        # All three ran within the time of the whole batch, one after another.
        assert 0.015 <= compute.ns / 1e9 <= answer.timings.ended - answer.timings.started
        await settle(batcher)

    with caplog.at_level(logging.CRITICAL, "strop.serve"):
        run(scenario())


def test_inputs_go_when_nobody_needs_them_any_more() -> None:
    """Not with the next batch: there may be none for hours."""

    async def scenario() -> None:
        session = Doubling()
        session.gate.clear()
        batcher = batcher_of(session, max_batch=1)
        ask = Asked(batcher)
        for value in range(3):
            ask(float(value))
        arrays = [weakref.ref(ticket.request.inputs["x"]) for ticket in ask.tickets]
        assert all(it() is not None for it in arrays)
        await until(lambda: session.order == [0.0])
        ask.tickets[2].cancel()
        assert arrays[2]() is None
        session.gate.set()
        await ask.all()
        ask.tickets.clear()
        ask.answers.clear()
        await until(lambda: all(it() is None for it in arrays))
        await settle(batcher)

    run(scenario())


def test_a_hang_fails_its_own_batch_and_the_worker_is_replaced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        session, second = Doubling(), Doubling()
        batcher = batcher_of(session, hang_seconds=1000.0, max_batch=2)
        batcher.model.reopen = lambda: second  # type: ignore[method-assign]
        (first,) = batcher._pool._instances
        ask = Asked(batcher)
        for value in (HANGS, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0):
            ask(value)
        await until(lambda: session.batches == [2])
        later(batcher, 1001.0)
        await ask.all()
        assert ask.values() == ["hang", "hang", 4.0, 6.0, 8.0, 10.0, 12.0]
        assert isinstance(ask.answers[0], ServeError)
        assert ask.answers[0].status == 500
        assert batcher.ready
        assert sum(second.batches) == 5
        session.released.set()  # what comes back too late changes nothing
        await asyncio.to_thread(first.join, END)
        await round_over()
        assert not batcher.busy
        assert batcher.running_rows == 0
        await settle(batcher)
        assert second.closed

    with caplog.at_level(logging.CRITICAL, "strop.serve"):
        run(scenario())


def test_a_worker_that_cannot_be_replaced_makes_the_model_unready(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        session = Doubling()
        batcher = batcher_of(session, hang_seconds=1000.0)

        def gone() -> Doubling:
            raise Unavailable("the file is gone")

        batcher.model.reopen = gone  # type: ignore[method-assign]
        ask = Asked(batcher)
        ask(HANGS)
        await until(lambda: session.batches == [1])
        later(batcher, 1001.0)
        await ask.all()
        ask(1.0)
        await ask.all()
        assert ask.values() == ["hang", "unavailable"]
        assert not batcher.ready
        session.released.set()
        await settle(batcher)

    with caplog.at_level(logging.CRITICAL, "strop.serve"):
        run(scenario())


def test_own_timeouts_are_kept_in_the_queue_and_in_the_model() -> None:
    async def scenario() -> None:
        session = Doubling()
        session.gate.clear()
        batcher = batcher_of(session, max_batch=1)
        ask = Asked(batcher)
        now = time.monotonic()
        ask(1.0, deadline=now + 1000.0)  # runs, and waits in the model
        await until(lambda: session.order == [1.0])
        ask(2.0)
        await round_over()  # lies ready at the worker
        ask(3.0, deadline=now + 1000.0)  # waits in the queue
        ask(4.0, deadline=now - 1.0)
        assert isinstance(ask.answers[3], DeadlineExceeded)
        for index in (0, 2):
            ask.tickets[index].request.deadline = now  # which has passed
        await until(lambda: ask.values() == ["timeout", None, "timeout", "timeout"])
        session.gate.set()
        await ask.all()
        assert ask.values()[1] == 4.0
        assert 3.0 not in session.order
        await settle(batcher)

    run(scenario())


def test_cancelled_requests_are_not_computed_and_not_answered() -> None:
    async def scenario() -> None:
        session = Doubling()
        session.gate.clear()
        batcher = batcher_of(session, max_batch=1)
        ask = Asked(batcher)
        for value in (1.0, 2.0, 3.0, 4.0):
            ask(value)
        await until(lambda: session.order == [1.0])
        assert batcher.running_rows == 2  # 2 lies ready at the worker
        for ticket in (ask.tickets[0], ask.tickets[2]):
            ticket.cancel()
            ticket.cancel()
        session.gate.set()
        await ask.all()
        assert ask.values() == [None, 4.0, None, 8.0]
        assert 3.0 not in session.order
        assert batcher.model.statistics.cancelled == 2
        assert batcher.lanes.requests == batcher.lanes.bytes == 0
        await settle(batcher)

    run(scenario())


def test_priorities_go_first_and_0_is_the_default_level() -> None:
    async def scenario() -> None:
        session = Doubling()
        session.gate.clear()
        batcher = batcher_of(session, max_batch=1, default_priority=2)
        ask = Asked(batcher)
        for value in (1.0, 2.0):
            ask(value)
        await round_over()
        assert batcher.running_rows == 2
        for value, priority in ((3.0, 3), (4.0, 0), (5.0, 1), (6.0, 2)):
            ask(value, priority=priority)
        session.gate.set()
        await ask.all()
        assert session.order == [1.0, 2.0, 5.0, 4.0, 6.0, 3.0]
        ask(7.0, priority=-1)
        assert ask.values()[-1] == "invalid"
        await settle(batcher)

    run(scenario())


def test_the_queue_is_bounded_in_requests_and_bytes() -> None:
    async def scenario() -> None:
        session = Doubling()
        session.gate.clear()
        batcher = batcher_of(session, max_batch=1, max_queue=5)
        ask = Asked(batcher)
        for value in range(2):
            ask(float(value))
        await round_over()
        assert batcher.running_rows == 2
        for value in range(2, 10):
            ask(float(value))
        refused = [it for it in ask.answers if isinstance(it, Overloaded)]
        assert len(refused) == 3
        assert all(it.status == 503 and it.retry_after for it in refused)
        session.gate.set()
        await ask.all()
        await settle(batcher)

        small = batcher_of(Doubling(), max_queue_bytes=100)
        ask = Asked(small)
        for value in (1.0, 2.0):
            ask(np.full((5, WIDTH), value, np.float32))
        assert ask.values() == [None, "overload"]
        await ask.all()
        await settle(small)

    run(scenario())


def test_what_would_be_late_is_refused_at_once_with_the_time_to_come_back() -> None:
    """The curve says 20 s a request, and no more than 100 may pass; nothing really takes long."""

    async def scenario() -> None:
        session = Doubling()
        batcher = batcher_of(session, max_batch=1, slo=100.0)
        for _ in range(30):
            batcher.model.curve.observe(1, 20.0)
        ask = Asked(batcher)
        for value in range(40):
            ask(float(value))
        assert ask.values() == [None] * 4 + ["overload"] * 36
        waits = [it.retry_after for it in ask.answers if isinstance(it, Overloaded)]
        assert all(wait is not None and 0 < wait < 40 for wait in waits)
        assert isinstance(batcher.refusal(), Overloaded)
        await ask.all()
        assert ask.values()[:4] == [0.0, 2.0, 4.0, 6.0]
        assert batcher.refusal() is None
        await settle(batcher)

    run(scenario())


def test_a_refusal_costs_little() -> None:
    """Counted in calls of functions, of which a microsecond holds some on any machine."""

    async def scenario() -> float:
        session = Doubling()
        session.gate.clear()
        batcher = batcher_of(session, max_batch=1, max_queue=1)
        ask = Asked(batcher)
        for value in (1.0, 2.0, 3.0):
            ask(value)
            await round_over()
        request = InferRequest("fake", {"x": np.zeros((1, WIDTH), np.float32)})
        calls = 0

        def count(frame: object, event: str, function: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            for _ in range(200):
                batcher.submit(request, lambda result: None)
        finally:
            sys.setprofile(None)
        assert batcher.model.statistics.refused == {"overload": 200}
        session.gate.set()
        await ask.all()
        await settle(batcher)
        return calls / 200

    assert run(scenario()) < 100


def test_a_worker_that_is_overdue_is_not_believed_to_be_free_soon() -> None:
    async def scenario() -> None:
        session = Doubling()
        session.gate.clear()
        batcher = batcher_of(session, max_batch=1, slo=200.0)
        for _ in range(30):
            batcher.model.curve.observe(1, 10.0)
        ask = Asked(batcher)
        ask(1.0)
        await until(lambda: session.batches == [1])
        later(batcher, 100.0)
        ask(2.0)  # 90 late, 90 more, 20 of its own: in time
        await round_over()
        later(batcher, 200.0)
        ask(3.0)
        assert ask.values() == [None, None, "overload"]
        session.gate.set()
        await ask.all()
        await settle(batcher)

    run(scenario())


def test_an_idle_worker_takes_what_no_prediction_allows() -> None:
    """Otherwise one slow batch at the start would shut the door for good."""

    async def scenario() -> None:
        batcher = batcher_of(Doubling(), slo=100.0)
        batcher.model.curve.observe(1, 5000.0)
        ask = Asked(batcher)
        ask(1.0)
        await ask.all()
        assert ask.values() == [2.0]
        await settle(batcher)

    run(scenario())


def test_the_objective_counts_from_when_a_request_is_there() -> None:
    """Who sends slowly, or much, is not late before the model has seen anything."""

    async def scenario() -> None:
        session = Doubling()
        session.gate.clear()
        batcher = batcher_of(session, max_batch=1, slo=60.0, hang_seconds=1e6)
        ask = Asked(batcher)
        long_ago = time.monotonic() - 1000.0
        ask(1.0, arrived=long_ago)
        await until(lambda: session.order == [1.0])
        ask(2.0, arrived=long_ago)
        ask(3.0, arrived=long_ago, deadline=long_ago + 1.0)
        assert ask.values() == [None, None, "timeout"]
        session.gate.set()
        await ask.all()
        assert ask.values() == [2.0, 4.0, "timeout"]
        await settle(batcher)

    run(scenario())


def test_the_worker_has_the_next_full_batch_at_hand() -> None:
    async def scenario() -> None:
        session = Doubling()
        session.gate.clear()
        batcher = batcher_of(session, max_batch=4)
        ask = Asked(batcher)
        ask(0.0)
        await until(lambda: session.batches == [1])
        ask(1.0)
        await round_over()
        assert (batcher.running_rows, batcher.queued) == (1, 1)  # may still grow
        for value in range(2, 10):
            ask(float(value))
        await round_over()
        assert (batcher.running_rows, batcher.queued) == (5, 5)
        session.gate.set()
        await ask.all()
        assert session.batches[:2] == [1, 4]
        assert session.order == [float(n) for n in range(10)]
        await settle(batcher)

    run(scenario())


def test_the_fixed_policy_waits_for_its_delay() -> None:
    async def scenario() -> None:
        session = Doubling()
        batcher = batcher_of(session, max_batch=4, policy="fixed", delay=0.05)
        ask = Asked(batcher)
        begin = time.monotonic()
        for value in range(2):
            ask(float(value))
        await ask.all()
        assert time.monotonic() - begin >= 0.0495
        assert session.batches == [2]
        await settle(batcher)

    run(scenario())


def test_the_fixed_policy_does_not_wait_when_the_batch_is_full() -> None:
    async def scenario() -> None:
        session = Doubling()
        batcher = batcher_of(session, max_batch=4, policy="fixed", delay=1000.0)
        ask = Asked(batcher)
        for value in range(3):
            ask(float(value))
            await round_over()
        assert (batcher.running_rows, batcher.queued) == (0, 3)
        ask(3.0)
        await ask.all()
        assert session.batches == [4]
        await settle(batcher)

    run(scenario())


def test_drain_answers_what_is_open_and_refuses_the_rest() -> None:
    async def scenario() -> None:
        session = Doubling(seconds=0.01)
        batcher = batcher_of(session, max_batch=2)
        ask = Asked(batcher)
        for value in range(9):
            ask(float(value))
        draining = asyncio.ensure_future(batcher.drain())
        await asyncio.sleep(0)
        ask(100.0)
        await draining
        assert ask.values() == [*(2.0 * value for value in range(9)), "unavailable"]
        assert not batcher.ready
        await settle(batcher)

    run(scenario())


def test_cancelling_the_last_request_ends_a_drain() -> None:
    async def scenario() -> None:
        session = Doubling()
        batcher = batcher_of(session, max_batch=4, policy="fixed", delay=1000.0)
        ask = Asked(batcher)
        ticket = ask(1.0)
        draining = asyncio.ensure_future(batcher.drain())
        await round_over()
        assert not draining.done()
        ticket.cancel()
        await asyncio.wait_for(draining, END)
        assert session.batches == []
        await settle(batcher)

    run(scenario())


def test_abort_answers_everything_now() -> None:
    async def scenario() -> None:
        session = Doubling()
        session.gate.clear()
        batcher = batcher_of(session, max_batch=1)
        ask = Asked(batcher)
        for value in range(5):
            ask(float(value))
        await until(lambda: session.batches == [1])
        batcher.abort(Unavailable("stopping"))
        assert ask.values() == ["unavailable"] * 5
        assert not batcher.busy
        await batcher.drain()
        session.gate.set()
        batcher.stop()

    run(scenario())


def test_a_front_that_raises_harms_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        batcher = batcher_of(Doubling())

        def broken(result: object) -> None:
            raise RuntimeError("front")

        batcher.submit(InferRequest("fake", {"x": np.zeros((1, WIDTH), np.float32)}), broken)
        ask = Asked(batcher)
        ask(1.0)
        await ask.all()
        assert ask.values() == [2.0]
        await settle(batcher)

    with caplog.at_level(logging.CRITICAL, "strop.serve"):
        run(scenario())


@pytest.mark.parametrize("inline", [True, False])
def test_only_the_outputs_wanted_are_given(inline: bool) -> None:
    async def scenario() -> None:
        batcher = batcher_of(Doubling(), inline=inline)
        ask = Asked(batcher)
        ask(1.0, outputs=("y",))
        ask(1.0, outputs=())
        ask(1.0, outputs=("z",))
        await ask.all()
        assert list(ask.answers[0].outputs) == ["y"]  # type: ignore[union-attr]
        assert list(ask.answers[1].outputs) == []  # type: ignore[union-attr]
        assert isinstance(ask.answers[2], ServeError)
        assert "no output 'z'" in str(ask.answers[2])
        await settle(batcher)

    run(scenario())


def test_statistics_count_what_happened() -> None:
    async def scenario() -> None:
        batcher = batcher_of(Doubling(), max_batch=4)
        ask = Asked(batcher)
        for value in range(4):
            ask(float(value))
        await ask.all()
        ask(np.zeros((2, WIDTH), np.float32))
        await ask.all()
        told = batcher.model.statistics.to_dict()
        assert (told["inference_count"], told["execution_count"]) == (6, 2)
        assert told["inference_stats"]["success"]["count"] == 5
        assert told["inference_stats"]["success"]["ns"] > told["inference_stats"]["queue"]["ns"]
        assert [it["batch_size"] for it in told["batch_stats"]] == [2, 4]
        assert batcher.model.statistics.total_seconds.count == 5
        assert batcher.model.statistics.batch_rows.sum == 6
        await settle(batcher)

    run(scenario())
