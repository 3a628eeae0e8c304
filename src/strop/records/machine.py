"""The machine that a figure was measured on, and the target of a search."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from strop.records._base import Record
from strop.records.cost import Price

Goal = Literal["latency", "throughput", "memory", "size", "energy", "cost"]


class Machine(Record):
    """What a reader needs to judge a figure.

    Attributes
    ----------
    isa
        The instruction sets that decide speed and numerics, in lower case: ``avx2``,
        ``avx512f``, ``avx512_vnni``, ``amx_int8``, ``avx512_bf16``, ``amx_bf16``, ``neon``,
        ``i8mm`` …
    cpus
        The logical CPUs that this process may use: affinity cut by the cgroup's quota.
    memory_bytes
        What this process may use: physical memory cut by the cgroup's limit.
    packages
        Versions of the libraries that shape results (numpy, onnxruntime, openvino, torch …).
    """

    cpu: str
    architecture: str
    platform: str
    isa: tuple[str, ...]
    cpus: tuple[int, ...]
    physical_cores: int
    memory_bytes: int
    python: str
    packages: dict[str, str] = Field(default_factory=dict)

    @property
    def cores(self) -> int:
        """How many logical CPUs this process may use."""
        return len(self.cpus)


class Target(Record):
    """What a search optimises for: a machine, a device, a goal and its constraints.

    Attributes
    ----------
    threads
        Threads of one inference; None means one a granted core.
    max_memory_bytes, max_p99_seconds
        Hard constraints, None when not asked for.
    price, rate, max_utilisation
        A machine's price, the inferences a second that are required, and the share of its
        throughput that a machine is given at most.
    watts_per_core
        What an estimate of energy counts for a busy logical CPU; None means by the processor.
    """

    machine: Machine
    device: str = "cpu"
    goal: Goal = "latency"
    batch: int = 1
    threads: int | None = None
    max_memory_bytes: int | None = None
    max_p99_seconds: float | None = None
    price: Price | None = None
    rate: float | None = None
    max_utilisation: float = 1.0
    watts_per_core: float | None = None

    @property
    def thread_count(self) -> int:
        return self.threads or self.machine.cores
