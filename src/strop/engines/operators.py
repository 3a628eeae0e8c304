"""What an engine's own profiler tells of one call: which operators ran, and for how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WARM = 3
"""Calls before the ones that count: first calls fill caches, arenas and lazy kernels."""


@dataclass(frozen=True)
class OperatorTime:
    """One operator as the engine executes it, fused with its neighbours or not.

    Attributes
    ----------
    name
        As the engine calls it.
    operator
        Its kind, as the engine calls it: ``Conv``, ``Convolution``, ``aten::conv2d``.
    seconds
        Of one call, without what it calls that is listed too (:func:`typical` over the runs).
    low, high
        Quartiles of those seconds over the runs.
    kernel
        The implementation, where the engine tells: ``brgconv_avx512_f32``.
    precision
        What it computes in, as a numpy dtype's name; ``int8`` stands for signed and unsigned.
        Empty where the engine does not tell.
    nodes
        Names of the artefact's nodes that it executes; empty for what the engine added itself.
    tensors
        Names of the artefact's tensors that those nodes make, where the engine tells.
    flops
        Operations of one call, where the engine counts them.
    """

    name: str
    operator: str
    seconds: float
    low: float
    high: float
    kernel: str = ""
    precision: str = ""
    nodes: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    flops: int | None = None

    @classmethod
    def over(
        cls,
        calls: Sequence[float],
        *,
        name: str,
        operator: str,
        kernel: str = "",
        precision: str = "",
        nodes: tuple[str, ...] = (),
        tensors: tuple[str, ...] = (),
        flops: int | None = None,
    ) -> OperatorTime:
        """The operator, from its seconds in each call.

        Examples
        --------
        >>> timed = OperatorTime.over([1.0, 2.0, 3.0, 4.0, 90.0], name="fc", operator="Gemm")
        >>> timed.seconds, timed.low, timed.high
        (3.0, 2.0, 4.0)
        """
        low, high = np.quantile(np.asarray(calls, dtype=np.float64), (0.25, 0.75))
        return cls(
            name=name,
            operator=operator,
            seconds=typical(calls),
            low=float(low),
            high=float(high),
            kernel=kernel,
            precision=precision,
            nodes=nodes,
            tensors=tensors,
            flops=flops,
        )


@dataclass(frozen=True)
class OperatorTimes:
    """All operators of a call in the order of execution, and what is between them.

    Attributes
    ----------
    outside_seconds
        Of one profiled call: what is in no operator, told call by call. Whoever shares the
        processor with us mostly interrupts operators, so that this stays true where the longest
        calls do not.
    """

    operators: tuple[OperatorTime, ...]
    outside_seconds: float


def between(calls: Sequence[float], inside: Sequence[Sequence[float]]) -> float:
    """Seconds of a typical call that are in no operator.

    Parameters
    ----------
    calls
        Seconds of each call.
    inside
        Seconds of each operator in each of those calls.

    Examples
    --------
    >>> between([5.0, 9.0], [[3.0, 7.0], [1.0, 1.0]])
    1.0
    """
    whole = np.asarray(calls, dtype=np.float64)
    known = np.asarray(inside, dtype=np.float64).reshape(-1, len(whole)).sum(axis=0)
    return max(typical(whole - known), 0.0)


def typical(seconds: Sequence[float]) -> float:
    """The mean of the middle half: as robust as the median, and finer.

    Engines count whole microseconds. A median would keep only those, which is 50% of a kernel that
    takes two of them.

    Examples
    --------
    >>> typical([2.0, 3.0, 2.0, 3.0, 2.0, 900.0, 3.0, 0.0])
    2.5
    """
    ordered = np.sort(np.asarray(seconds, dtype=np.float64))
    quarter = len(ordered) // 4
    return float(ordered[quarter : len(ordered) - quarter].mean())
