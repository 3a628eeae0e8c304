"""One request and its answer, as both fronts hand them to the core and get them back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np


@dataclass(slots=True)
class InferRequest:
    """Named arrays for one model.

    Attributes
    ----------
    model, version
        What is asked for; the version ``""`` is the newest that is ready.
    inputs
        Arrays by name, C-contiguous, in the model's dtypes; BYTES as an object array of `bytes`.
        The core only reads them, so they may be read-only views of a receive buffer.
    outputs
        Names of the outputs wanted; None means all of them.
    id
        The client's, given back unchanged.
    priority
        1 is the most urgent; 0 is the model's default level, as in Triton.
    deadline
        `time.monotonic()` seconds (the clock of `loop.time()`) at which the client stops waiting:
        from its ``timeout`` parameter. None leaves it to the model's service-level objective.
    arrived
        `time.monotonic()` seconds when the request had been read to its end; 0.0 is filled in on
        submission.
    parameters
        Whatever else the request carried.
    """

    model: str
    inputs: dict[str, np.ndarray]
    version: str = ""
    outputs: tuple[str, ...] | None = None
    id: str = ""
    priority: int = 0
    deadline: float | None = None
    arrived: float = 0.0
    parameters: dict[str, Any] = field(default_factory=dict)


class Timings(NamedTuple):
    """When things happened to a request, in `time.monotonic()` seconds.

    `started` and `ended` are those of the batch that it was computed in, whose rows are `batch`;
    an answer from the cache has ``batch == 0``.
    """

    arrived: float
    started: float
    ended: float
    batch: int


@dataclass(slots=True)
class InferResponse:
    """Outputs in the order wanted; arrays are views of the batch's outputs and not to be written.

    `model` and `version` are those that answered, never empty.
    """

    model: str
    version: str
    outputs: dict[str, np.ndarray]
    id: str
    timings: Timings
