"""How one model is served."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from strop.errors import InputError

Batching = Literal["auto", "always", "never"]
PolicyName = Literal["deadline", "fixed"]

LEVELS = 256
"""Levels of priority. Each that is in use is a queue of its own, which shares no batch with the
others and is looked at for every request, so clients must not make as many as they like."""


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What a user may choose for a model; the defaults serve any model sensibly.

    Attributes
    ----------
    path
        A bundle's folder, an ONNX file, an OpenVINO ``.xml``, a ``.tflite``, or a folder whose
        subfolders ``1``, ``2`` … hold one of these each.
    max_batch
        Rows computed at once at most; 1 turns batching off.
    batching
        ``auto`` batches where warm-up shows that a row's answer does not depend on its
        neighbours by more than `tolerance`; ``always`` takes the model's word for it (all inputs
        and outputs must still lead with a free dimension).
    tolerance
        Relative error of a batched answer against the same request alone.
    policy, delay
        ``deadline`` never waits while a worker is idle; ``fixed`` waits for `max_batch` rows, but
        not longer than `delay` seconds.
    workers
        Batches that run at once; None means the bundle's streams, or 1.
    threads
        Threads of one inference; None means as measured (bundles), or the cores over the workers.
    inline
        Whether batches run on the event loop's own thread: saves two thread switches a batch,
        right only for models of some microseconds. None decides at warm-up.
    slo
        Seconds within which an accepted request is to be answered; None accepts what the queue
        holds.
    default_priority
        The level of requests that name none; 1 is the most urgent, `LEVELS` the least.
    max_queue, max_queue_bytes
        Bounds on the requests that wait, and on the bytes of their inputs.
    memory_limit
        Bytes that loading and warm-up may add to the resident set; None is no limit.
    cache_bytes
        Size of the response cache; 0 turns it off.
    hang_seconds
        A batch that runs longer is given up: its requests fail, its worker is replaced.
    trust
        Whether an artefact that is code (an exported program) may be loaded.

    Raises
    ------
    InputError
        When a number is outside its range.
    """

    path: Path
    max_batch: int = 32
    batching: Batching = "auto"
    tolerance: float = 1e-3
    policy: PolicyName = "deadline"
    delay: float = 0.002
    workers: int | None = None
    threads: int | None = None
    inline: bool | None = None
    slo: float | None = None
    default_priority: int = 8
    max_queue: int = 4096
    max_queue_bytes: int = 256 * 2**20
    memory_limit: int | None = None
    cache_bytes: int = 0
    hang_seconds: float = 30.0
    trust: bool = False

    def __post_init__(self) -> None:
        at_least_one = ("max_batch", "workers", "threads", "default_priority", "max_queue")
        for name in (*at_least_one, "max_queue_bytes", "memory_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}", hint="give 1 or more")
        if self.default_priority > LEVELS:
            raise InputError(f"default_priority is {self.default_priority}, the last is {LEVELS}")
        for name in ("slo", "hang_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} is {value}", hint="give seconds above 0")
        for name in ("tolerance", "delay", "cache_bytes"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} is {getattr(self, name)}", hint="give 0 or more")
        if self.batching not in ("auto", "always", "never"):
            raise InputError(
                f"batching is '{self.batching}'", hint="give 'auto', 'always' or 'never'"
            )
        if self.policy not in ("deadline", "fixed"):
            raise InputError(f"policy is '{self.policy}'", hint="give 'deadline' or 'fixed'")
