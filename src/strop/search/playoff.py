"""The last round of a race: what was proven runs side by side, and ties go to the smaller file.

A race times a candidate in one launch, so the fastest of many is partly the luckiest. Before one of
the proven is delivered, those that the race could not tell from it run against it in launches of
their own, interleaved, as the final timings do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from strop.records import Interval

T = TypeVar("T")

# A challenger that the race saw slower than this, against the fastest, is not worth a duel.
_NEAR = 0.75
_MOST = 4
# A tie: not surely slower, and within 2% by the estimate. A file smaller by a tenth then wins.
_TIE = 0.98
_SMALLER = 0.9


@dataclass(frozen=True)
class Contender(Generic[T]):
    """One of the proven: what it is, its speed in the race (more is better), its bytes on disk."""

    of: T
    speed: float
    size: int | None


def playoff(
    contenders: Sequence[Contender[T]], duel: Callable[[T, T], Interval | None]
) -> Contender[T]:
    """The contender that stays after duels, from the fastest of the race on.

    Parameters
    ----------
    contenders
        At least one.
    duel
        Of a champion and a challenger: how many times better the challenger is, with an interval;
        None where there was no time left to say, which ends the round.

    Examples
    --------
    >>> def duel(champion, challenger):
    ...     return Interval(estimate=1.0, low=0.97, high=1.03, confidence=0.95)
    >>> big, small = Contender("fp16", 13.3, 220_000), Contender("int8", 12.9, 190_000)
    >>> playoff([small, big], duel).of
    'int8'
    """
    champion, *rest = sorted(contenders, key=lambda one: one.speed, reverse=True)
    near = [one for one in rest if one.speed >= _NEAR * champion.speed]
    for challenger in near[: _MOST - 1]:
        ratio = duel(champion.of, challenger.of)
        if ratio is None:
            break
        if ratio.low > 1.0 or (_tie(ratio) and _smaller(challenger, champion)):
            champion = challenger
    return champion


def _tie(ratio: Interval) -> bool:
    return ratio.estimate >= _TIE and ratio.high >= 1.0


def _smaller(a: Contender[T], b: Contender[T]) -> bool:
    return a.size is not None and b.size is not None and a.size <= _SMALLER * b.size
