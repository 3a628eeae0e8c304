"""Searches that end when their work is done, not by the clock: no machine is too slow for them.

Their budget is never used up. What takes time on purpose (rounds and launches of a timing, points
of the latency curve, trials without a better one) is cut down instead, which changes how sure a
search is of a speed, and nothing else.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from strop.measure import PairTiming, batch_size
from strop.measure.conditions import PLAIN, Conditions
from strop.proof.speed import launch_log_ratio
from strop.records import SessionSpec
from strop.workers import Pool

BUDGET = "10h"
"""Beyond all that a test may take, and with it what is cut down as time runs short."""
_LIMITS: dict[tuple[str, str], object] = {
    ("strop.search.retiming", "_QUADS"): 2,
    ("strop.search.deliver", "_CURVE"): (1, 4),
    ("strop.search.race", "_PATIENCE"): 3,
    ("strop.search.timekeeper", "_ROUNDS"): 3,
    ("strop.search.timekeeper", "_MORE_ROUNDS"): 2,
    ("strop.search.timekeeper", "_TAIL_CALLS"): 20,
    ("strop.search.operating", "_SHARE"): 0.0,
    ("strop.search.heat", "_ROUNDS"): 2,
    ("strop.search.operating", "_ROUNDS"): 2,
    ("strop.search.operating", "_EQUIVALENTS"): 1,
    ("strop.search.operating", "_OTHERS"): 1,
}
STROP = [
    sys.executable,
    "-c",
    "\n".join(
        [
            "from importlib import import_module",
            *(
                f"import_module({room!r}).{name} = {value!r}"
                for (room, name), value in _LIMITS.items()
            ),
            "from strop.cli import main",
            "main()",
        ]
    ),
]
"""The command ``strop``, whose searches are short."""


def shorten(
    patch: pytest.MonkeyPatch, *, patience: int | None = None, tuning: bool = False
) -> None:
    """Make the searches of this process short; `patience` in trials without a better one.

    Batch size, threads and calls at once are only tuned where `tuning` is asked for.
    """
    for (room, name), value in _LIMITS.items():
        if not (tuning and name == "_SHARE"):
            patch.setattr(import_module(room), name, value)
    if patience is not None:
        patch.setattr(import_module("strop.search.race"), "_PATIENCE", patience)


def share(patch: pytest.MonkeyPatch, pool: Pool) -> None:
    """Let searches use the children of `pool`, which outlive them, instead of their own."""
    searching = import_module("strop.search.optimize")
    patch.setattr(searching, "Pool", lambda **_: contextlib.nullcontext(pool))


def settle_speed(patch: pytest.MonkeyPatch, times_faster: float) -> None:
    """Let every final timing find its second session so many times faster than its first.

    Which of two is faster is luck on a busy machine; what follows from it is not. Timing itself
    is tested in ``tests/measure``.
    """

    def pair(
        a: SessionSpec,
        b: SessionSpec,
        inputs: Mapping[str, np.ndarray],
        *,
        b_inputs: Mapping[str, np.ndarray] | None = None,
        launches: int,
        quads: int,
        conditions: Conditions = PLAIN,
        **_: Any,
    ) -> PairTiming:
        ratio = 1.0 if a == b else times_faster
        random = np.random.default_rng(0)
        noise = random.normal(0, 0.01, (launches, quads, 4))
        seconds = 1e-3 / np.array([1, ratio, ratio, 1]) * np.exp(noise)
        return PairTiming(
            log_ratios=np.array([launch_log_ratio(launch) for launch in seconds]),
            quads=tuple(seconds),
            a_seconds=tuple(launch[:, [0, 3]].ravel() for launch in seconds),
            b_seconds=tuple(launch[:, [1, 2]].ravel() for launch in seconds),
            batch=batch_size(inputs),
            b_batch=batch_size(inputs if b_inputs is None else b_inputs),
            shortened=False,
            settled=True,
            concurrent=conditions.concurrent,
        )

    patch.setattr("strop.search.retiming.pair", pair)
