"""The plot of everything that was tried: how fast it is against what it loses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from strop.records import Interval, Result, Trial
from strop.report.numbers import Score, fixed, ratio
from strop.report.svg import Axis, Svg, tick_text

_WIDTH, _HEIGHT = 680.0, 430.0
_LEFT, _RIGHT, _TOP, _FLOOR = 62.0, 664.0, 20.0, 372.0
_STRIP = 58.0
_FAR = 3.0  # losses beyond so many tolerances stand at the upper edge

PALETTE = 6
"""Colours that the style sheet knows; further engines share the last one."""

_SHAPES = {
    "star": "M0-9.5 2.6-3.4 9-2.9 4.1 1.3 5.6 7.7 0 4.3-5.6 7.7-4.1 1.3-9-2.9-2.6-3.4Z",
    "diamond": "M0-6.4 6.4 0 0 6.4-6.4 0Z",
    "circle": "M-4.4 0A4.4 4.4 0 1 0 4.4 0A4.4 4.4 0 1 0-4.4 0Z",
    "square": "M-4.6-4.6H4.6V4.6H-4.6Z",
    "cross": "M-4-4 4 4M4-4-4 4",
}
_ORDER = {"failed": 0, "dropped": 1, "alive": 2, "front": 3, "chosen": 4}


@dataclass(frozen=True)
class Plot:
    """The picture, and what its legend names.

    Attributes
    ----------
    engines
        Engine names with the class of their colour.
    shapes
        Names of the shapes that occur, with their pictures.
    anchor
        What speed is relative to.
    untimed, beyond
        Marks at the left edge (never timed) and at the upper edge (losing far too much).
    """

    picture: Markup
    engines: tuple[tuple[str, str], ...]
    shapes: tuple[tuple[str, Markup], ...]
    anchor: str
    untimed: int
    beyond: int


@dataclass(frozen=True)
class _Mark:
    trial: Trial
    x: float
    y: float
    shape: str
    class_: str
    lost: Interval
    speed: Interval | None
    beyond: bool


def plot(result: Result, tried: Sequence[Trial], score: Score) -> Plot | None:
    """Draw those of the trials whose quality is known; None where there is none."""
    known = [trial for trial in tried if _lost(trial) is not None]
    if not known:
        return None
    engines = {
        name: f"e{min(k, PALETTE - 1)}"
        for k, name in enumerate(dict.fromkeys(trial.recipe.deploy.engine for trial in known))
    }
    y, ceiling = _lost_axis(known, result.tolerance)
    untimed = sum(speed_of(trial) is None for trial in known)
    x = _speed_axis(known, _LEFT + (_STRIP if untimed else 0.0))
    marks = [_mark(trial, x, y, ceiling, engines) for trial in known]
    marks.sort(key=lambda mark: (_ORDER[mark.trial.status], mark.trial.number))
    picture = Svg(
        _WIDTH, _HEIGHT, class_="pareto", label="Speed against quality lost", role="group"
    )
    _frame(picture, x, y, result, score, bool(untimed))
    _staircase(picture, marks)
    for mark in marks:
        _draw(picture, mark, x, y, score)
    _labels(picture, marks, result)
    shapes = [
        (name, _sample(shape))
        for shape, name in (
            ("star", "delivered"),
            ("diamond", "best trade-off"),
            ("circle", "beaten"),
            ("cross", "dropped or failed"),
            ("square", "the original"),
        )
        if any(mark.shape == shape for mark in marks)
    ]
    return Plot(
        picture=picture.markup(),
        engines=tuple(engines.items()),
        shapes=tuple(shapes),
        anchor=_anchor_name(result),
        untimed=untimed,
        beyond=sum(mark.beyond for mark in marks),
    )


def speed_of(trial: Trial) -> Interval | None:
    """How many times faster than the race's anchor, where it was timed."""
    for found in trial.evidence.speedups:
        if found.against == "anchor" and 0 < found.ratio.estimate < math.inf:
            return found.ratio
    return None


def _lost(trial: Trial) -> Interval | None:
    quality = trial.evidence.search_quality
    if quality is None or not math.isfinite(quality.drop.estimate):
        return None
    return quality.drop


def _lost_axis(trials: Sequence[Trial], tolerance: float) -> tuple[Axis, float]:
    """The vertical axis, and the loss from which on a mark stands at its upper edge."""
    lost = [found.estimate for trial in trials if (found := _lost(trial)) is not None]
    unit = tolerance if tolerance > 0 and math.isfinite(tolerance) else max(map(abs, lost)) or 1.0
    ceiling = max([1.6 * unit, *(value for value in lost if value <= _FAR * unit)]) * 1.05
    floor = min([-0.25 * unit, *(max(value, -ceiling) * 1.15 for value in lost)])
    return Axis(floor, ceiling, _FLOOR, _TOP), ceiling


def _speed_axis(trials: Sequence[Trial], start: float) -> Axis:
    speeds = [found.estimate for trial in trials if (found := speed_of(trial)) is not None]
    low, high = min([*speeds, 0.95]), max([*speeds, 1.3])
    spread = (high / low) ** 0.06
    return Axis(low / spread, high * spread**1.6, start + 12, _RIGHT, log=True)


def _mark(trial: Trial, x: Axis, y: Axis, ceiling: float, engines: dict[str, str]) -> _Mark:
    lost, speed = _lost(trial), speed_of(trial)
    assert lost is not None
    shape = {"chosen": "star", "front": "diamond", "dropped": "cross", "failed": "cross"}.get(
        trial.status, "circle"
    )
    if trial.number == 0 and trial.status != "chosen":
        shape = "square"
    # What was never timed stands in a strip of its own, side by side.
    aside = _LEFT + 10 + (trial.number * 7) % (_STRIP - 18)
    return _Mark(
        trial=trial,
        x=aside if speed is None else x(speed.estimate),
        y=y(lost.estimate),
        shape=shape,
        class_=engines[trial.recipe.deploy.engine],
        lost=lost,
        speed=speed,
        beyond=lost.estimate > ceiling,
    )


def _frame(picture: Svg, x: Axis, y: Axis, result: Result, score: Score, strip: bool) -> None:
    picture.add(
        "rect",
        x=_LEFT,
        y=y(result.tolerance),
        width=_RIGHT - _LEFT,
        height=_FLOOR - y(result.tolerance),
        class_="allowed",
    )
    ticks = y.ticks(6)
    scaled = [tick * score.scale for tick in ticks]
    text = tick_text(scaled)
    for tick, shown in zip(ticks, scaled, strict=True):
        picture.line(_LEFT, y(tick), _RIGHT, y(tick), class_="axis" if not tick else "grid")
        picture.text(_LEFT - 8, y(tick) + 4, text(shown), class_="tick", text_anchor="end")
    unit = "points of " if score.percent else ""
    # Above the axis: beside it, long numbers would run into it, on small screens all of them.
    picture.text(2, _TOP - 10, f"{unit}{score.metric} lost", class_="name")
    speeds = x.ticks(6)
    text = tick_text(speeds, "×")
    picture.line(_LEFT, _FLOOR, _RIGHT, _FLOOR, class_="axis")
    for tick in speeds:
        picture.line(x(tick), _FLOOR, x(tick), _FLOOR + 4, class_="axis")
        picture.text(x(tick), _FLOOR + 18, text(tick), class_="tick", text_anchor="middle")
    picture.text(
        (x.start + x.end) / 2, _FLOOR + 42, "faster →", class_="name", text_anchor="middle"
    )
    limit = y(result.tolerance)
    picture.line(_LEFT, limit, _RIGHT, limit, class_="limit")
    allowed = f"you allowed {score.tolerance(result.tolerance)}"
    # At the left, where the slow ones are: the fast ones crowd around the limit at the right.
    picture.text(x.start - 4, limit - 6, allowed, class_="tick limit")
    if strip:
        edge = _LEFT + _STRIP
        picture.line(edge, _TOP, edge, _FLOOR, class_="grid")
        picture.text(
            _LEFT + _STRIP / 2, _FLOOR + 18, "not timed", class_="tick strip", text_anchor="middle"
        )


def _staircase(picture: Svg, marks: Sequence[_Mark]) -> None:
    """The best that was seen at each speed: no mark lies below and to the right of it."""
    timed = [mark for mark in marks if mark.speed is not None and mark.trial.status != "failed"]
    steps: list[_Mark] = []
    for mark in sorted(timed, key=lambda mark: (-mark.x, mark.lost.estimate)):
        if not steps or mark.lost.estimate < steps[-1].lost.estimate:
            steps.append(mark)
    steps.reverse()
    if len(steps) < 2:
        return
    path = f"M{steps[0].x:.1f} {steps[0].y:.1f}"
    for mark in steps[1:]:
        path += f"V{mark.y:.1f}H{mark.x:.1f}"
    picture.add("path", d=path, class_="front")


def _draw(picture: Svg, mark: _Mark, x: Axis, y: Axis, score: Score) -> None:
    number = mark.trial.number
    picture.open(
        "g",
        class_=f"mark {mark.class_} {mark.trial.status}",
        transform=f"translate({mark.x:.1f} {mark.y:.1f})",
        data_n=str(number),
        data_engine=mark.class_,
        role="button",
        tabindex="-1",
        aria_pressed="false",
        aria_label=_describe(mark.trial, score),
    )
    picture.add("circle", r=12, class_="target")
    picture.open("g", class_="whiskers")
    if math.isfinite(mark.lost.low) and math.isfinite(mark.lost.high) and not mark.beyond:
        top, bottom = y(mark.lost.high) - mark.y, y(mark.lost.low) - mark.y
        picture.line(0, top, 0, bottom, class_="whisker")
    if mark.speed is not None and mark.speed.low > 0 and mark.speed.high < math.inf:
        left, right = x(mark.speed.low) - mark.x, x(mark.speed.high) - mark.x
        picture.line(left, 0, right, 0, class_="whisker")
    picture.close()
    picture.add("path", d=_SHAPES[mark.shape], class_=f"shape {mark.shape}")
    if mark.beyond:
        picture.add("path", d="M-3-8 0-12 3-8", class_="beyond")
    picture.close()


def _labels(picture: Svg, marks: Sequence[_Mark], result: Result) -> None:
    """Names beside the three that the report is about, apart where they would overlap."""
    wanted = {result.delivered.recipe.id: "delivered"}
    wanted.setdefault(result.equivalent.recipe.id, "fastest equivalent")
    wanted.setdefault(result.original.recipe.id, "original")
    placed: list[tuple[float, float]] = []
    for mark in marks:
        name = wanted.pop(mark.trial.recipe.id, None)
        if name is None:
            continue
        x, y = mark.x, mark.y - 15
        while any(abs(x - other) < 96 and abs(y - level) < 14 for other, level in placed):
            y -= 15
        placed.append((x, y))
        anchor = "end" if x > _RIGHT - 50 else "start" if x < _LEFT + 40 else "middle"
        picture.text(x, y, name, class_="label", text_anchor=anchor)


def _sample(shape: str) -> Markup:
    picture = Svg(20, 20, label="", class_="sample")
    picture.add(
        "path", d=_SHAPES[shape], class_=f"shape {shape}", transform="translate(10 10) scale(.9)"
    )
    return picture.markup()


def _anchor_name(result: Result) -> str:
    """What the race timed everything against: the original, or the first exact conversion."""
    timed = [trial for trial in result.trials if speed_of(trial) is not None]
    if not timed or timed[0].number == 0:
        return "the original"
    return str(timed[0].recipe)


def _describe(trial: Trial, score: Score) -> str:
    """One sentence on a mark, for those who hear the page."""
    lost, speed = _lost(trial), speed_of(trial)
    parts = [str(trial.recipe)]
    if speed is not None:
        parts.append(f"{ratio(speed.estimate)} as fast")
    if lost is not None:
        parts.append(f"loses {fixed(lost.estimate * score.scale, score.decimals)}")
    return ", ".join(parts)
