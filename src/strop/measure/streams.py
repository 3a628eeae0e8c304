"""Examples a second when several calls run at once inside one session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from strop.measure.subject import LOADER, PATIENCE, Inputs, Subject, batch_size
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
    cpus: Sequence[int] | None = None,
    deadline: float | None = None,
    patience: float = PATIENCE,
    memory_limit: int | None = None,
    loader: str = LOADER,
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
        cpus=cpus,
        deadline=deadline,
        patience=patience,
        memory_limit=memory_limit,
        loader=loader,
    ) as subject:
        subject.load()
        subject.warm(warmup_seconds)
        counted = [subject.stream(streams, seconds) for _ in range(rounds)]
    rates = sorted(batch * calls / took for calls, took in counted)
    return Throughput(
        examples_per_second=rates[len(rates) // 2],
        rounds=tuple(batch * calls / took for calls, took in counted),
        streams=streams,
        batch=batch,
        calls=sum(calls for calls, _ in counted),
    )
