"""Examples a second when several calls run at once inside one session."""

from __future__ import annotations

from dataclasses import dataclass

from strop.measure.conditions import PLAIN, Conditions
from strop.measure.subject import Inputs, Subject, batch_size
from strop.records import SessionSpec


@dataclass(frozen=True)
class Throughput:
    """Examples a second at one batch size.

    Attributes
    ----------
    examples_per_second
        Median over the rounds.
    rounds
        Examples a second in each round.
    streams
        Calls that ran at once, each from a thread of its own.
    batch
        Examples a call.
    calls
        Calls finished in all rounds.
    """

    examples_per_second: float
    rounds: tuple[float, ...]
    streams: int
    batch: int
    calls: int


def throughput(
    spec: SessionSpec,
    inputs: Inputs,
    *,
    streams: int | None = None,
    seconds: float = 1.0,
    rounds: int = 3,
    warmup_seconds: float = 3.0,
    payload: bytes | None = None,
    conditions: Conditions = PLAIN,
) -> Throughput:
    """Call a session from `streams` threads at once and count.

    One launch: for choosing batch size and streams, not for a claim. A round ends when its last
    call does, so that long calls are counted slightly against it.

    Parameters
    ----------
    streams
        Threads that call; None means as many as the placement names.
    seconds, rounds
        A round lasts so long, beyond the call that each stream starts with untimed.

    Raises
    ------
    ChildError
        When the session fails, dies or hangs, or is not thread-safe and `streams` is above 1.
    """
    streams = spec.placement.streams if streams is None else streams
    batch = batch_size(inputs)
    with Subject(
        "throughput",
        spec,
        inputs,
        payload=payload,
        conditions=conditions,
    ) as subject:
        subject.load()
        subject.warm(warmup_seconds)
        counted = [subject.stream(streams, seconds) for _ in range(rounds)]
    rates = [batch * len(flow.latencies) / flow.seconds for flow in counted]
    return Throughput(
        examples_per_second=sorted(rates)[len(rates) // 2],
        rounds=tuple(rates),
        streams=streams,
        batch=batch,
        calls=sum(len(flow.latencies) for flow in counted),
    )
