"""The small pictures: bars and intervals of the table, the claim, the calls, the launches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from strop.records import Interval
from strop.report.numbers import Score, TimeUnit, fixed, ratio, ratio_bounds
from strop.report.sources import Launches
from strop.report.svg import Axis, Svg, tick_text

_CELL_WIDTH, _CELL_HEIGHT = 132, 10
_RUNG_WIDTH, _RUNG_HEIGHT = 220, 30
_CURVE_POINTS = 160


def bar(value: float, largest: float, who: str, interval: Interval | None = None) -> Markup:
    """A bar from nothing to `value`, with a whisker, on a scale that ends at `largest`."""
    picture = Svg(_CELL_WIDTH, _CELL_HEIGHT, label="", class_="cell")
    axis = Axis(0.0, largest or 1.0, 0.0, _CELL_WIDTH)
    middle = _CELL_HEIGHT / 2
    picture.line(0, middle, _CELL_WIDTH, middle, class_="track")
    picture.add("rect", x=0, y=2, width=axis(value), height=6, class_=f"bar {who}")
    if interval is not None and math.isfinite(interval.low) and math.isfinite(interval.high):
        _whisker(picture, axis, interval, middle, 3.5)
    return picture.markup()


def drop_mark(drop: Interval | None, reach: float, tolerance: float, who: str) -> Markup:
    """A drop of quality and its interval, beside no drop and the tolerance."""
    picture = Svg(_CELL_WIDTH, _CELL_HEIGHT, label="", class_="cell")
    axis = Axis(-reach, reach, 2.0, _CELL_WIDTH - 2.0)
    middle = _CELL_HEIGHT / 2
    picture.line(0, middle, _CELL_WIDTH, middle, class_="track")
    picture.line(axis(0), 0, axis(0), _CELL_HEIGHT, class_="axis")
    picture.line(axis(tolerance), 0, axis(tolerance), _CELL_HEIGHT, class_="limit")
    if drop is None:
        picture.add("circle", cx=axis(0), cy=middle, r=3, class_=f"dot {who}")
    elif math.isfinite(drop.estimate):
        if math.isfinite(drop.low) and math.isfinite(drop.high):
            _whisker(picture, axis, drop, middle, 3)
        picture.add("circle", cx=axis(drop.estimate), cy=middle, r=3, class_=f"dot {who}")
    return picture.markup()


def rung(
    before: float | None, now: Interval | None, ends: tuple[float, float], *, last: bool
) -> Markup:
    """One rung of a ladder: a bar from what the speed was to what it is now.

    Parameters
    ----------
    before
        The speed of the rung before that was timed.
    now
        None where this one was not timed: a dotted line carries the speed on.
    ends
        Of the axis, which is logarithmic.
    """
    picture = Svg(_RUNG_WIDTH, _RUNG_HEIGHT, label="", class_="rung")
    axis = Axis(*ends, 4, _RUNG_WIDTH - 4, log=True)
    middle = _RUNG_HEIGHT / 2
    picture.line(axis(1.0), 0, axis(1.0), _RUNG_HEIGHT, class_="axis")
    if before is not None:
        picture.line(axis(before), 0, axis(before), middle, class_="carried")
    if now is None:
        if before is not None:
            picture.line(axis(before), middle, axis(before), _RUNG_HEIGHT, class_="carried")
        return picture.markup()
    end = axis(now.estimate)
    if not last:
        picture.line(end, middle, end, _RUNG_HEIGHT, class_="carried")
    start = end if before is None else axis(before)
    left, width = min(start, end), abs(end - start)
    if width < 2:
        picture.add("circle", cx=end, cy=middle, r=3.5, class_="dot delivered" if last else "dot")
    else:
        class_ = "bar delivered" if end > start else "bar"
        picture.add("rect", x=left, y=middle - 4, width=width, height=8, class_=class_)
    if math.isfinite(now.low) and math.isfinite(now.high):
        _whisker(picture, axis, now, middle, 3.5)
    return picture.markup()


def claim(drop: Interval | None, upper: float, tolerance: float, score: Score) -> Markup:
    """The upper bound on an axis, against the tolerance.

    Parameters
    ----------
    drop
        What was seen, with a two-sided interval for display.
    upper
        The one-sided bound that the claim rests on.
    """
    seen = [] if drop is None else [drop.estimate, drop.low, drop.high]
    known = [value for value in (0.0, upper, tolerance, *seen) if math.isfinite(value)]
    low, high = min(known), max(known)
    pad = 0.12 * (high - low or 1.0)
    picture = Svg(480, 132, class_="claim", label=_claim_label(drop, upper, tolerance, score))
    axis = Axis(low - pad, high + pad, 14, 466)
    floor, level = 92.0, 58.0
    picture.add("rect", x=14, y=36, width=axis(tolerance) - 14, height=floor - 36, class_="allowed")
    ticks = axis.ticks(6)
    scaled = [tick * score.scale for tick in ticks]
    text = tick_text(scaled)
    picture.line(14, floor, 466, floor, class_="axis")
    for tick, shown in zip(ticks, scaled, strict=True):
        picture.line(axis(tick), floor, axis(tick), floor + 4, class_="axis")
        picture.text(axis(tick), floor + 17, text(shown), class_="tick", text_anchor="middle")
    unit = "points of " if score.percent else ""
    picture.text(240, floor + 36, f"{unit}{score.metric} lost", class_="name", text_anchor="middle")
    picture.line(axis(tolerance), 30, axis(tolerance), floor, class_="limit")
    _end_label(picture, axis(tolerance), 22, f"you allowed {score.tolerance(tolerance)}", "limit")
    if math.isfinite(upper):
        picture.line(14, level, axis(upper), level, class_="reach")
        picture.line(axis(upper), level - 7, axis(upper), level + 7, class_="reach")
        _end_label(picture, axis(upper), level + 24, f"at most {score.drop(upper)}", "upper")
    if drop is not None and math.isfinite(drop.estimate):
        picture.add("circle", cx=axis(drop.estimate), cy=level, r=4.5, class_="dot delivered")
        place = axis(drop.estimate)
        picture.text(
            place, level - 11, f"seen {score.drop(drop.estimate)}", class_="tick", **_anchor(place)
        )
    return picture.markup()


def calls(pair: Launches) -> Markup:
    """Share of calls that took at most so long, left and right: two empirical distributions."""
    picture = Svg(380, 250, class_="calls", label=f"Seconds of a call, {pair.left}, {pair.right}")
    right = pair.right_seconds
    both = np.concatenate([pair.left_seconds, right])
    unit = TimeUnit.fitting([float(np.median(pair.left_seconds))])
    # The slowest of all may be far out: the axis ends soon after the slower one's 99%.
    tails = [float(np.quantile(seconds, 0.99)) for seconds in (pair.left_seconds, right)]
    low, high = float(both.min()) * unit.scale, 1.1 * max(tails) * unit.scale
    high = max(high, low * 1.05)
    axis = Axis(low * 0.94, high * 1.03, 40, 370, log=high > 10 * low)
    share = Axis(0.0, 1.0, 200, 26)
    for level, name in ((0.0, "0"), (0.5, "50%"), (0.9, "90%"), (0.99, "99%")):
        picture.line(40, share(level), 370, share(level), class_="axis" if not level else "grid")
        near = 4 if level != 0.99 else 0
        picture.text(34, share(level) + near, name, class_="tick", text_anchor="end")
    _bottom(picture, axis, 200, f"{unit.name} a call", about=5)
    for name, seconds in ((pair.left, pair.left_seconds), (pair.right, pair.right_seconds)):
        shares = np.linspace(0.0, 1.0, _CURVE_POINTS)
        values = np.quantile(seconds, shares) * unit.scale
        points = " ".join(
            f"{axis(float(value)):.1f},{share(float(level)):.1f}"
            for value, level in zip(values, shares, strict=True)
            if value <= axis.high
        )
        picture.add("polyline", points=points, class_=f"curve {name}")
    return picture.markup()


def launches(pair: Launches, interval: Interval | None) -> Markup:
    """One dot a launch: how many times faster the right one was in it."""
    ratios = [math.exp(log) for log in pair.log_ratios]
    found = [*ratios, 1.0] if min(ratios) < 1.6 else list(ratios)
    if interval is not None:
        found += [value for value in (interval.low, interval.high) if 0 < value < math.inf]
    shown = ratio(interval.estimate) if interval is not None else "no interval"
    picture = Svg(380, 250, class_="launches", label=f"Speed-up in each launch: {shown}")
    axis = Axis(min(found) * 0.97, max(found) * 1.03, 20, 360, log=True)
    top, floor = 52.0, 200.0
    if axis.low < 1.0 < axis.high:
        picture.line(axis(1), top - 8, axis(1), floor, class_="limit")
        picture.text(axis(1), top - 14, "no faster", class_="tick", **_anchor(axis(1), 380))
    if interval is not None and math.isfinite(interval.low) and math.isfinite(interval.high):
        left, right = axis(interval.low), axis(interval.high)
        picture.add(
            "rect", x=left, y=top, width=max(right - left, 1), height=floor - top, class_="band"
        )
        middle = axis(interval.estimate)
        picture.line(middle, top - 4, middle, floor, class_="reach")
        label = f"{ratio(interval.estimate)} ({ratio_bounds(interval)})"
        picture.text(middle, top - 32, label, class_="upper", **_anchor(middle, 380))
    step = (floor - top - 16) / max(len(ratios) - 1, 1)
    for number, value in enumerate(ratios):
        picture.add(
            "circle", cx=axis(value), cy=top + 8 + number * step, r=3.5, class_="dot delivered"
        )
    _bottom(picture, axis, floor, f"{pair.left} time ÷ {pair.right} time", suffix="×", about=4)
    return picture.markup()


def changes(drops: np.ndarray, score: Score) -> Markup:
    """Histogram of the per-example drops of a real-valued score."""
    picture = Svg(480, 190, class_="changes", label=f"Change of {score.metric} by example")
    low, high = float(drops.min()), float(drops.max())
    if not high > low:
        low, high = low - 0.5 * (abs(low) or 1e-3), high + 0.5 * (abs(high) or 1e-3)
    counts, edges = np.histogram(drops, bins=40, range=(low, high))
    axis = Axis(low, high, 44, 466)
    tall = Axis(0.0, float(counts.max()), 140, 12)
    for count, left, right in zip(counts, edges, edges[1:], strict=False):
        width = max(axis(float(right)) - axis(float(left)) - 0.8, 0.5)
        top = tall(float(count))
        if count:
            picture.add(
                "rect",
                x=axis(float(left)),
                y=min(top, 139.0),
                width=width,
                height=max(140 - top, 1.0),
                class_="bar delivered",
            )
    picture.text(38, 20, f"{int(counts.max()):,}", class_="tick", text_anchor="end")
    if low < 0 < high:
        picture.line(axis(0), 8, axis(0), 140, class_="axis")
    _bottom(picture, axis, 140, f"{score.metric} lost on an example", about=6, start=44)
    return picture.markup()


def spent(parts: Sequence[tuple[str, float]], total: float) -> Markup:
    """One bar an item, on a scale that ends at the total."""
    picture = Svg(480, 22 * len(parts) + 4, class_="spent", label="Seconds by phase")
    axis = Axis(0.0, total or 1.0, 110, 400)
    for number, (name, seconds) in enumerate(parts):
        y = 22 * number + 4
        picture.text(0, y + 12, name, class_="name")
        width = max(axis(seconds) - 110, 1.0)
        picture.add("rect", x=110, y=y + 3, width=width, height=10, class_="bar delivered")
        picture.text(axis(seconds) + 8, y + 12, f"{fixed(seconds, 1)} s", class_="tick")
    return picture.markup()


def _whisker(picture: Svg, axis: Axis, interval: Interval, y: float, half: float) -> None:
    left, right = axis(interval.low), axis(interval.high)
    picture.line(left, y, right, y, class_="whisker")
    for x in (left, right):
        picture.line(x, y - half, x, y + half, class_="whisker")


def _bottom(
    picture: Svg,
    axis: Axis,
    y: float,
    name: str,
    *,
    suffix: str = "",
    about: int = 5,
    start: float | None = None,
) -> None:
    """The horizontal axis with its ticks and its name."""
    ticks = axis.ticks(about)
    text = tick_text(ticks, suffix)
    picture.line(axis.start if start is None else start, y, axis.end, y, class_="axis")
    for tick in ticks:
        picture.line(axis(tick), y, axis(tick), y + 4, class_="axis")
        picture.text(axis(tick), y + 17, text(tick), class_="tick", text_anchor="middle")
    middle = (axis.start + axis.end) / 2
    picture.text(middle, y + 36, name, class_="name", text_anchor="middle")


def _anchor(x: float, width: float = 480) -> dict[str, str]:
    """Text near an edge grows away from it."""
    share = x / width
    return {"text_anchor": "start" if share < 0.2 else "end" if share > 0.8 else "middle"}


def _end_label(picture: Svg, x: float, y: float, text: str, class_: str) -> None:
    picture.text(x, y, text, class_=f"tick {class_}", **_anchor(x))


def _claim_label(drop: Interval | None, upper: float, tolerance: float, score: Score) -> str:
    seen = "" if drop is None else f"seen {score.drop(drop.estimate)}, "
    return (
        f"Loss of {score.metric}: {seen}at most {score.drop(upper)}, "
        f"allowed {score.tolerance(tolerance)}"
    )
