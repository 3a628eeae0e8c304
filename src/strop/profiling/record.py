"""What a profile found, as plain data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from strop.records import Machine, Record


class Operator(Record):
    """One operator as an engine executes it.

    Attributes
    ----------
    name, operator, kernel
        Its name, its kind and its implementation, as the engine calls them.
    precision
        What it computes in (a numpy dtype's name; ``int8`` for signed and unsigned); empty where
        the engine does not tell.
    nodes
        The model's own nodes that it executes; empty for what the engine added itself.
    seconds, share
        Of one call, and of the whole call.
    low, high
        Quartiles of the seconds over the calls: where they lie far apart, something else ran on
        the machine.
    flops
        Operations of one call, a multiply-add counting two; null where they are not known.
    bytes_moved
        Bytes that it must read and write; null where they are not known.
    roofline
        Share of what the machine can reach at this operator's intensity. Above 1 on the memory
        side where tensors come from caches, which are faster than the memory that the roofline is
        about. Null without counts or without measured peaks.
    side
        Which of the two peaks bounds it.
    """

    name: str
    operator: str
    kernel: str
    precision: str
    nodes: tuple[str, ...]
    seconds: float
    low: float
    high: float
    share: float
    flops: int | None
    bytes_moved: int | None
    roofline: float | None
    side: Literal["compute", "memory"] | None


class MemorySample(Record):
    """Resident bytes of the process at a moment, and what it did then."""

    seconds: float
    bytes: int
    phase: Literal["import", "load", "run"]


class EngineProfile(Record):
    """One engine's profile of the model.

    Attributes
    ----------
    recipe
        How it was deployed: ``openvino(f32)``.
    calls
        Calls that count, with and without the profiler each; fewer than asked for where they
        take long.
    call_seconds
        Median of a call, without the profiler.
    profiled_seconds
        Of a call under the profiler, which `Operator.share` is a share of.
    operators
        In the order of execution.
    outside_seconds
        What of a profiled call is in no operator: dispatch, copies at the border, Python.
    unmatched
        Operators of the engine's own that stand for no node of the model (reorders and the like).
    quantised
        Whether any operator computes on 8-bit integers.
    memory
        While loading and running without the profiler, oldest first.
    peak_memory
        Most resident bytes in those samples, the interpreter's own included.
    reason
        Why no operators are told; empty where they are. `profiled_seconds` is `call_seconds` then.
    """

    engine: str
    recipe: str
    calls: int
    call_seconds: float
    profiled_seconds: float
    operators: tuple[Operator, ...]
    outside_seconds: float
    unmatched: int
    quantised: bool
    memory: tuple[MemorySample, ...]
    peak_memory: int
    reason: str = ""


class Slowed(Record):
    """Nodes that take longer in the quantised graph than in the float one, on the same engine.

    Attributes
    ----------
    nodes
        Nodes of the original that both graphs execute in some operator.
    operators
        Kinds of operators that run them in the quantised graph.
    float_seconds, quantised_seconds
        Of one call.
    """

    nodes: tuple[str, ...]
    operators: tuple[str, ...]
    float_seconds: float
    quantised_seconds: float


class Quantisation(Record):
    """The quantised graph beside its float original.

    Attributes
    ----------
    float_profile
        The original on the same engine.
    slowed
        What became slower, the largest loss first.
    added_seconds
        Operators of the quantised graph that stand for no node of the original: quantising,
        dequantising, reordering.
    """

    float_profile: EngineProfile
    slowed: tuple[Slowed, ...]
    added_seconds: float


class Advice(Record):
    """One sentence drawn from the figures.

    Attributes
    ----------
    rule
        Which rule says so.
    engine
        Whose profile it is about.
    share
        The share of a call that it is about; advice is ordered by it.
    """

    rule: str
    engine: str
    share: float
    text: str


class Peaks(Record):
    """The measured peaks of the machine that shares of the roofline refer to.

    Attributes
    ----------
    fp32, int8
        Operations a second, the best seen: in a large matrix product or in any operator here.
    bandwidth
        Bytes a second between processor and memory.
    """

    fp32: float
    int8: float
    bandwidth: float
    threads: int


class Profile(Record):
    """What `strop profile` prints.

    Attributes
    ----------
    batch, threads, runs
        Examples a call, threads of a call, calls asked for.
    engines
        One profile an engine, the fastest call first.
    quantisation
        Null without ``--against``.
    peaks
        Null where nothing was measured.
    skipped
        Engines that cannot run or profile the model, and why.
    notes
        What could not be told, and why.
    """

    schema_version: int = Field(default=1, alias="schema")
    model: str
    data: str
    batch: int
    threads: int
    runs: int
    engines: tuple[EngineProfile, ...]
    quantisation: Quantisation | None
    peaks: Peaks | None
    advice: tuple[Advice, ...]
    skipped: dict[str, str]
    notes: tuple[str, ...]
    machine: Machine
