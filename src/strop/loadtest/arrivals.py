"""When queries are meant to be sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

Arrivals = Literal["poisson", "constant"]

_BLOCK = 1024


def intended_times(rate: float, arrivals: Arrivals, seed: int) -> Iterator[float]:
    """Endless seconds since the start at which queries are due, `rate` of them a second.

    Poisson arrivals are what many independent users make, and what LoadGen's server scenario
    draws; constant ones come at equal distances.

    Examples
    --------
    >>> times = intended_times(4.0, "constant", seed=0)
    >>> [next(times) for _ in range(3)]
    [0.0, 0.25, 0.5]
    """
    if arrivals == "constant":
        number = 0
        while True:
            yield number / rate
            number += 1
    generator = np.random.default_rng(seed)
    now = 0.0
    while True:
        for gap in generator.exponential(1 / rate, _BLOCK).tolist():
            now += gap
            yield now
